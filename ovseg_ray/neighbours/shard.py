"""The part of a search that one process does: plain Python, what a Ray actor wraps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ovseg_ray.neighbours.approximate import ApproximateIndex
from ovseg_ray.neighbours.storage import Manifest, Storage
from ovseg_ray.neighbours.top_k import Found, exact_top_k, has_faiss, merge, nothing

REFINED = 4  # candidates that are scored exactly, for each wanted neighbour
REFINED_CODES = 16  # the same where vectors are known by product codes only
GATHERED_ROWS = 65536


class Shard:
    """Searches the segments of one shard; everything it knows comes from storage.

    Args:
        root: of the storage.
        number: which shard.
        threads: to compute with.
        device: of torch; "cpu" uses faiss where it is installed.
        resident: keep vectors in memory; else they are read from storage for every search.
    """

    def __init__(self, root: Path, number: int, threads: int = 1, device: str = "cpu", resident: bool = False) -> None:
        _use_threads(threads)
        self._storage, self._number, self._device, self._resident = Storage(root), number, device, resident
        self._kept: dict[str, np.ndarray] = {}
        self._index: ApproximateIndex | None = None
        self._manifest: Manifest | None = None
        self.refresh()

    def refresh(self) -> int:
        """Take up what was added to the storage.

        Returns:
            Segments of the whole storage that this shard knows of.
        """
        manifest = self._storage.manifest()
        if manifest != self._manifest:
            self._manifest = manifest
            segments = manifest.of_shard(self._number)
            if not manifest.index.exact:
                place = self._storage.root / f"shard-{self._number}"
                self._index = ApproximateIndex(self._storage, segments, manifest.index, place)
        return len(manifest.segments)

    def search(self, queries: np.ndarray, k: int, known: int, effort: int | None = None) -> Found:
        """The nearest of this shard.

        Args:
            queries: (n, D) float32 of length 1.
            k: how many.
            known: segments of the storage that the caller knows of; the shard looks again if it knows fewer.
            effort: of an approximate search; None: exact.
        """
        assert self._manifest is not None
        if len(self._manifest.segments) < known:
            self.refresh()
        if effort is None:
            return self._exact(queries, k)
        return self._approximate(queries, k, effort)

    def search_rows(self, start: int, stop: int, k: int, known: int, effort: int | None = None) -> Found:
        """As `search`, for the vectors of rows `start` to `stop` of the storage."""
        assert self._manifest is not None
        return self.search(self._storage.read_rows(start, stop, self._manifest), k, known, effort)

    def most_effort(self) -> int:
        """Effort beyond which an approximate search finds nothing more."""
        return self._index.most_effort if self._index is not None else 0

    def _exact(self, queries: np.ndarray, k: int) -> Found:
        assert self._manifest is not None
        best = nothing(len(queries), k)
        for segment in self._manifest.of_shard(self._number):
            if self._resident:
                if segment.name not in self._kept:
                    self._kept[segment.name] = self._storage.read(segment, 0, segment.rows)
                blocks: Any = [(segment.start, self._kept[segment.name])]
            else:
                blocks = self._storage.scan(segment)
            for first, block in blocks:
                found = exact_top_k(queries, block, k, self._device)
                best = merge([best, Found(found.scores, found.rows + first)], k)
        return best

    def _approximate(self, queries: np.ndarray, k: int, effort: int) -> Found:
        assert self._index is not None
        assert self._manifest is not None
        refined = k * (REFINED_CODES if self._manifest.index.kind == "ivfpq" else REFINED)
        parts = []
        step = max(GATHERED_ROWS // refined, 1)
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            parts.append(self._rescored(part, self._index.candidates(part, refined, effort), k))
        return Found(np.concatenate([p.scores for p in parts]), np.concatenate([p.rows for p in parts]))

    def _rescored(self, queries: np.ndarray, rows: np.ndarray, k: int) -> Found:
        """The best k of candidates, by their true inner products."""
        assert self._manifest is not None
        distinct, places = np.unique(rows[rows >= 0], return_inverse=True)
        vectors = self._storage.gather(distinct, self._manifest.of_shard(self._number))
        scores = np.full(rows.shape, -np.inf, np.float32)
        owner = np.nonzero(rows >= 0)[0]
        scores[rows >= 0] = np.einsum("nd,nd->n", queries[owner], vectors[places.reshape(-1)])
        return merge([Found(scores, rows.astype(np.int64))], k)


def _use_threads(threads: int) -> None:
    if has_faiss():
        import faiss

        faiss.omp_set_num_threads(threads)
    else:
        import torch

        torch.set_num_threads(threads)
