"""Approximate indices of faiss over the vectors of one shard, saved so that a restarted shard need not build again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ovseg_ray.errors import UserError
from ovseg_ray.neighbours.config import IndexConfig
from ovseg_ray.neighbours.storage import Segment, Storage
from ovseg_ray.neighbours.top_k import has_faiss
from ovseg_ray.run_directory import write_directory_atomically

INDEX_FILE, CONTENT_FILE = "index.faiss", "content.json"
TRAIN_ROWS_PER_LIST = 40  # what faiss wants at least for its k-means
CODEBOOK_ROWS = 256 * TRAIN_ROWS_PER_LIST
MOST_TRAINING_ROWS = 100_000
RANGE_ROWS = 4096  # tell the range of each number, for bytes


class ApproximateIndex:
    """A faiss index with row numbers as ids.

    Args:
        storage: vectors.
        segments: of the shard.
        config: which index.
        place: directory that keeps it.
    """

    def __init__(self, storage: Storage, segments: tuple[Segment, ...], config: IndexConfig, place: Path) -> None:
        if not has_faiss():
            raise UserError(
                f"index '{config.kind}': needs faiss, which is not installed; pip install faiss-cpu, or use flat"
            )
        self._storage, self._config, self._place = storage, config, place
        index, covered = self._load(segments)
        rest = tuple(segment for segment in segments if segment.name not in covered)
        if index is None:
            index = make_index(config, sum(segment.rows for segment in segments), storage.manifest_dim)
            index.train(_sample(storage, segments, training_rows(index)))
        for segment in rest:
            for first, block in storage.scan(segment):
                index.add_with_ids(block, np.arange(first, first + len(block)))
        self._index: Any = index
        self.segments = segments
        if rest:
            self._save()

    def candidates(self, queries: np.ndarray, count: int, effort: int) -> np.ndarray:
        """(n, count) rows that are likely among the nearest, -1 where there are no more."""
        faiss = _faiss()
        inner = faiss.downcast_index(self._index.index if isinstance(self._index, faiss.IndexIDMap2) else self._index)
        if isinstance(inner, faiss.IndexHNSW):
            inner.hnsw.efSearch = max(effort, count)
        else:
            inner.nprobe = min(effort, inner.nlist)
        rows: np.ndarray = self._index.search(queries, count)[1]
        return rows

    @property
    def most_effort(self) -> int:
        """Effort beyond which nothing more is found."""
        faiss = _faiss()
        if isinstance(self._index, faiss.IndexIDMap2):
            return int(self._index.ntotal)
        return int(self._index.nlist)

    def _load(self, segments: tuple[Segment, ...]) -> tuple[Any, set[str]]:
        faiss = _faiss()
        try:
            content = json.loads((self._place / CONTENT_FILE).read_text())
            fits = content["config"] == _built_with(self._config)
            if fits and set(content["segments"]) <= {segment.name for segment in segments}:
                return faiss.read_index(str(self._place / INDEX_FILE)), set(content["segments"])
        except (OSError, ValueError, KeyError, RuntimeError):
            pass  # not there, or not whole: it is built anew
        return None, set()

    def _save(self) -> None:
        faiss = _faiss()
        content = {"config": _built_with(self._config), "segments": [segment.name for segment in self.segments]}

        def fill(partial: Path) -> None:
            faiss.write_index(self._index, str(partial / INDEX_FILE))
            (partial / CONTENT_FILE).write_text(json.dumps(content))

        write_directory_atomically(self._place, fill)


def _faiss() -> Any:
    # its stubs know too little of its classes
    import faiss

    return faiss


def _built_with(config: IndexConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"effort", "recall_floor"})


def lists_of(config: IndexConfig, rows: int) -> int:
    """Inverted lists of a shard, never more than can be trained on its rows."""
    return max(1, min(config.lists or int(2 * math.sqrt(rows)), rows // TRAIN_ROWS_PER_LIST))


def code_bytes(config: IndexConfig, dim: int) -> int:
    """Bytes of a product-quantised vector: the asked ones, or the nearest to an eighth of D that divides it.

    Raises:
        UserError: they do not divide D.
    """
    if config.code_bytes is None:
        return max(size for size in range(1, max(dim // 8, 1) + 1) if dim % size == 0)
    if dim % config.code_bytes:
        raise UserError(f"code_bytes = {config.code_bytes}: must divide the {dim} numbers of a vector")
    return config.code_bytes


def make_index(config: IndexConfig, rows: int, dim: int) -> Any:
    """An empty, untrained faiss index; vectors are kept as bytes, scores are computed anew from storage.

    Raises:
        UserError: too few rows for the kind.
    """
    faiss = _faiss()
    if config.kind == "hnsw":
        byte = faiss.ScalarQuantizer.QT_8bit
        graph = faiss.IndexHNSWSQ(dim, byte, config.links, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = config.build_effort
        return faiss.IndexIDMap2(graph)
    coarse = faiss.IndexFlatIP(dim)
    lists = lists_of(config, rows)
    if config.kind == "ivf":
        byte = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(coarse, dim, lists, byte, faiss.METRIC_INNER_PRODUCT)
    else:
        if rows < CODEBOOK_ROWS:
            raise UserError(f"index 'ivfpq': wants {CODEBOOK_ROWS} vectors a shard, there are {rows}; use flat or ivf")
        index = faiss.IndexIVFPQ(coarse, dim, lists, code_bytes(config, dim), 8, faiss.METRIC_INNER_PRODUCT)
    index.own_fields = True
    coarse.this.disown()
    return index


def training_rows(index: Any) -> int:
    """How many vectors an index is trained on."""
    faiss = _faiss()
    if isinstance(index, faiss.IndexIDMap2):
        return RANGE_ROWS
    wanted = max(TRAIN_ROWS_PER_LIST * index.nlist, CODEBOOK_ROWS if isinstance(index, faiss.IndexIVFPQ) else 0)
    return int(min(wanted, MOST_TRAINING_ROWS))


def _sample(storage: Storage, segments: tuple[Segment, ...], rows: int) -> np.ndarray:
    total = sum(segment.rows for segment in segments)
    places = np.sort(np.random.default_rng(0).choice(total, min(rows, total), replace=False))
    starts = np.cumsum([0, *(segment.rows for segment in segments)])
    owner = np.searchsorted(starts, places, "right") - 1
    return storage.gather(places - starts[owner] + np.array([s.start for s in segments])[owner], segments)
