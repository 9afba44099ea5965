"""Nearest neighbours as a service: one Ray actor a shard, answers merged where they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import ray

from ovseg_ray.errors import UserError
from ovseg_ray.neighbours.recall import choose_effort
from ovseg_ray.neighbours.shard import Shard
from ovseg_ray.neighbours.storage import Manifest, Storage
from ovseg_ray.neighbours.top_k import Found, merge

QUALITY = "quality.json"
NAMESPACE = "ovseg_ray"  # of shards that stay
ROWS_OF_A_SHARD = 20_000  # fewer are not worth a process


@dataclass(frozen=True)
class Quality:
    """What an index reaches: `recall` at k on a sample of its own vectors, with `effort` (None: exact)."""

    recall: float
    effort: int | None


class NeighbourService:
    """Client of the shards of a storage, and what starts them.

    A shard that dies is started again by Ray and reads its state from storage; calls wait for it and are repeated.
    Actors take paths only: one with large arguments could not be restarted.

    Args:
        root: directory of a `Storage`, seen by every node.
        resident: shards keep vectors in memory.
        shared: shards outlive this process, and other processes of the cluster find them by `root`.
        recall_at: k at which the recall of an approximate index is measured; searches for more neighbours are exact.

    Raises:
        UserError: no storage there, or an approximate index below its recall floor.

    Example:
        >>> Storage.create(Path("index"), open_vectors("features.npy"), shards=2, index=IndexConfig())
        >>> with NeighbourService(Path("index")) as service:
        ...     ids, scores = service.nearest(queries, k=7)
    """

    def __init__(self, root: Path, *, resident: bool = False, shared: bool = False, recall_at: int = 8) -> None:
        self.storage = Storage(root.absolute())
        self._manifest = self.storage.manifest()
        self._shared, self._recall_at = shared, recall_at
        self._shards = [self._start(number, resident) for number in range(self._manifest.shards)]
        self.quality = Quality(1.0, None)
        if not self._manifest.index.exact:
            try:
                self.quality = self._known_quality(recall_at) or self._measured_quality(recall_at)
            except UserError:
                self.stop()  # shared shards would stay, and nobody would know of them
                raise

    def _known_quality(self, k: int) -> Quality | None:
        """What another client of the same vectors and index has measured."""
        told = self.storage.note(QUALITY)
        same = told.get("features") == self._manifest.features and told.get("recall_at") == k
        if not same or told.get("index") != self._manifest.index.model_dump(mode="json"):
            return None
        return Quality(told["recall"], told["effort"])

    def _measured_quality(self, k: int) -> Quality:
        recall, effort = choose_effort(self, self._manifest, k)
        index = self._manifest.index.model_dump(mode="json")
        told = {"features": self._manifest.features, "recall_at": k, "index": index}
        self.storage.write_note(QUALITY, {**told, "recall": recall, "effort": effort})
        return Quality(recall, effort)

    def _start(self, number: int, resident: bool) -> Any:
        resources = ray.cluster_resources()
        gpu = resources.get("GPU", 0) >= self._manifest.shards and self._manifest.index.exact
        threads = max(1, int(resources.get("CPU", 1)) // self._manifest.shards // 2)
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": 1 if gpu else 0}
        if self._shared:
            name = _name(self.storage.root, number)
            options |= {"name": name, "get_if_exists": True, "lifetime": "detached", "namespace": NAMESPACE}
        actor = ray.remote(Shard).options(max_restarts=-1, max_task_retries=-1, **options)
        return actor.remote(self.storage.root, number, threads, "cuda" if gpu else "cpu", resident)

    def __enter__(self) -> NeighbourService:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the shards; shared ones stay until `stop`."""
        if not self._shared:
            self.stop()

    def stop(self) -> None:
        """Stop the shards, shared ones too."""
        for shard in self._shards:
            ray.kill(shard)

    @property
    def manifest(self) -> Manifest:
        """Vectors that searches of this client cover."""
        return self._manifest

    def search(self, queries: np.ndarray, k: int, effort: int | None = None) -> Found:
        """Nearest rows of (n, D) float32 queries of length 1, best first; `effort` None: exact."""
        reference = ray.put(np.ascontiguousarray(queries, np.float32))
        return self.collect([shard.search.remote(reference, k, self._known, effort) for shard in self._shards], k)

    def ask_rows(self, start: int, stop: int, k: int, effort: int | None = None) -> list[Any]:
        """Start a search for the vectors of some rows, which shards read themselves; `collect` waits for it."""
        return [shard.search_rows.remote(start, stop, k, self._known, effort) for shard in self._shards]

    def collect(self, asked: list[Any], k: int) -> Found:
        """The merged answer of all shards."""
        return merge(ray.get(asked), min(k, self._manifest.rows))

    def nearest(self, queries: np.ndarray, k: int) -> tuple[list[list[str]], np.ndarray]:
        """Names and cosines of the k vectors nearest to each query.

        Args:
            queries: (n, D) floats, any length but 0.
            k: at most the number of vectors.

        Returns:
            n lists of k names, best first, and (n, k) float32 cosines.

        Raises:
            UserError: queries of another length, or of zeros.
        """
        queries = np.atleast_2d(np.asarray(queries, np.float32))
        lengths = np.linalg.norm(queries, axis=-1, keepdims=True)
        if queries.ndim != 2 or queries.shape[1] != self._manifest.dim or not (lengths > 0).all():
            shape = "x".join(map(str, queries.shape))
            raise UserError(
                f"query of shape {shape}: give vectors of {self._manifest.dim} numbers that are not all zero"
            )
        return self._named(self.search(queries / lengths, k, self._effort(k)))

    def nearest_of(self, ids: Sequence[str], k: int) -> tuple[list[list[str]], np.ndarray]:
        """As `nearest`, of vectors that are there: each is its own first neighbour.

        Raises:
            UserError: a name that is not there.
        """
        rows = []
        for name in ids:
            row = pa.compute.index(self.storage.names, name).as_py()
            if row < 0:
                raise UserError(f"'{name}': is not in {self.storage.root}; names are those of its vectors")
            rows.append(row)
        vectors = self.storage.gather(np.array(rows), self._manifest.segments)
        return self._named(self.search(vectors, k, self._effort(k)))

    def _effort(self, k: int) -> int | None:
        """What was measured says nothing of more neighbours than it was measured with."""
        return self.quality.effort if k <= self._recall_at else None

    def _named(self, found: Found) -> tuple[list[list[str]], np.ndarray]:
        if found.rows.size and found.rows.max() >= len(self.storage.names):
            self.refresh()  # another client has added vectors, and shards know them already
        names = self.storage.names.take(pa.array(found.rows.reshape(-1))).to_pylist()
        width = found.rows.shape[1]
        return [names[row * width : (row + 1) * width] for row in range(len(found.rows))], found.scores

    def refresh(self) -> None:
        """Take up what other clients have added."""
        self._manifest = self.storage.manifest()
        self.storage.forget_names()

    def add(self, ids: list[str], vectors: np.ndarray) -> str:
        """Add vectors; searches that begin after this cover them.

        Returns:
            The new hash of all vectors: tables made before are stale.

        Raises:
            UserError: as `Storage.append`.
        """
        self._manifest = self.storage.append(pa.array(ids, pa.string()), vectors)
        ray.get([shard.refresh.remote() for shard in self._shards])
        return self._manifest.features

    def most_effort(self) -> int:
        """Effort beyond which an approximate search finds nothing more."""
        return max(ray.get([shard.most_effort.remote() for shard in self._shards]))

    @property
    def _known(self) -> int:
        return len(self._manifest.segments)


def is_running(root: Path) -> bool:
    """Whether shards that stay are there for an index, on the connected cluster."""
    try:
        ray.get_actor(_name(root.absolute(), 0), namespace=NAMESPACE)
    except ValueError:
        return False
    return True


def _name(root: Path, number: int) -> str:
    return f"neighbours-{hashlib.sha256(str(root).encode()).hexdigest()[:12]}-{number}"


def default_shards(rows: int) -> int:
    """Shards for N vectors on the connected cluster: one a GPU, else one for every two CPUs, none with few rows."""
    resources = ray.cluster_resources()
    workers = int(resources.get("GPU", 0)) or max(1, int(resources.get("CPU", 1)) // 2)
    return max(1, min(workers, rows // ROWS_OF_A_SHARD))
