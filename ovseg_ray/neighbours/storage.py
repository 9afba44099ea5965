"""Vectors and indices of a search on disk: what a shard is made from, and comes back from when it was killed.

    manifest.json          segments in order, each with its shard; index configuration; hash of all vectors
    segment-00000.f32      normalised float32 rows, one after another
    segment-00000.parquet  their names
    shard-0/               the shard's approximate index, and which segments it covers

A segment is written once and never changed. The manifest is replaced as a whole, so that any reader sees either the
vectors before an addition or those after it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.vectors import ID, VectorHash, Vectors, normalised
from ovseg_ray.neighbours.config import IndexConfig
from ovseg_ray.run_directory import write_atomically

MANIFEST, LOCK = "manifest.json", ".lock"
BYTES = 4
READ_ROWS = 16384


@dataclass(frozen=True)
class Segment:
    """Consecutive rows: `start` is the first one's number, `shard` who searches them, `digest` the hash of them."""

    name: str
    start: int
    rows: int
    shard: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """State of a storage.

    Attributes:
        dim: D.
        segments: by `start`.
        index: how shards search.
        shards: how many.
        source: hash of the vectors as they came (`Vectors.fingerprint`), before any addition.
    """

    dim: int
    segments: tuple[Segment, ...]
    index: IndexConfig
    shards: int
    source: str

    @property
    def rows(self) -> int:
        """N."""
        return self.segments[-1].start + self.segments[-1].rows

    @property
    def features(self) -> str:
        """Hash that tables carry: that of the source, or with additions of all segments."""
        if len(self.segments) == self.shards:
            return self.source
        return hashlib.sha256("".join(segment.digest for segment in self.segments).encode()).hexdigest()[:16]

    def of_shard(self, number: int) -> tuple[Segment, ...]:
        """Segments of one shard."""
        return tuple(segment for segment in self.segments if segment.shard == number)


class Storage:
    """A directory of vectors.

    Args:
        root: seen by every node.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def manifest(self) -> Manifest:
        """Its present state.

        Raises:
            UserError: there is none, or it is damaged.
        """
        path = self.root / MANIFEST
        try:
            values = json.loads(path.read_text())
            segments = tuple(Segment(**segment) for segment in values.pop("segments"))
            index = IndexConfig.model_validate(values.pop("index"))
            return Manifest(segments=segments, index=index, **values)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; give the directory of a neighbour index") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: is damaged ({error}); build the index again") from error

    @classmethod
    def create(
        cls,
        root: Path,
        vectors: Vectors,
        shards: int,
        index: IndexConfig,
        progress: Callable[[int], None] | None = None,
    ) -> Storage:
        """Copy vectors, normalised, into equal segments, one a shard.

        Raises:
            UserError: vectors that cannot be used, names that come twice, or no room.
        """
        storage, digest = cls(root), VectorHash()
        root.mkdir(parents=True, exist_ok=True)
        edges = np.linspace(0, vectors.rows, shards + 1).astype(int)
        writers = [_SegmentWriter(root, number, int(edges[number]), number) for number in range(shards)]
        done = 0
        for ids, block in vectors.blocks():
            digest.update(ids, block)
            block = normalised(block, ids, vectors.path)
            for number, writer in enumerate(writers):
                first, last = max(int(edges[number]) - done, 0), min(int(edges[number + 1]) - done, len(block))
                if first < last:
                    writer.write(ids[first:last], block[first:last])
            done += len(block)
            if progress is not None:
                progress(done)
        segments = tuple(writer.close() for writer in writers)
        storage._write(Manifest(vectors.dim, segments, index, shards, digest.hexdigest()))
        try:
            storage.check_names(vectors.path)
        except UserError:
            (root / MANIFEST).unlink()  # what stands there is no index
            raise
        return storage

    def append(self, ids: pa.Array, vectors: np.ndarray) -> Manifest:
        """Add vectors as a segment of the shard with the fewest rows. Several processes may do so at once.

        Raises:
            UserError: vectors of another length, of zeros, or with a name that is there already.
        """
        with self._locked():
            self.forget_names()  # another process may have added some
            manifest = self.manifest()
            if vectors.ndim != 2 or vectors.shape[1] != manifest.dim or len(vectors) != len(ids) or not len(ids):
                raise UserError(
                    f"{self.root}: vectors of shape {vectors.shape}; give {len(ids)} of {manifest.dim} numbers"
                )
            known = set(self.names.to_pylist())
            for name in ids.to_pylist():
                if name in known:
                    raise UserError(f"{self.root}: '{name}' is there already; give each vector its own name")
                known.add(name)
            rows = [sum(segment.rows for segment in manifest.of_shard(shard)) for shard in range(manifest.shards)]
            writer = _SegmentWriter(self.root, len(manifest.segments), manifest.rows, int(np.argmin(rows)))
            writer.write(ids, normalised(np.ascontiguousarray(vectors, np.float32), ids, self.root))
            manifest = replace(manifest, segments=(*manifest.segments, writer.close()))
            self._write(manifest)
            self.forget_names()
            return manifest

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among the processes that change this storage."""
        try:
            with (self.root / LOCK).open("w") as file:
                fcntl.lockf(file, fcntl.LOCK_EX)
                yield
        except FileNotFoundError as error:
            raise UserError(f"{self.root}: {error.strerror}; give the directory of a neighbour index") from error

    def note(self, name: str) -> dict[str, Any]:
        """What was written down beside the vectors; empty where nothing was."""
        try:
            told = json.loads((self.root / name).read_text())
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    def write_note(self, name: str, content: dict[str, Any]) -> None:
        """Write something down beside the vectors."""
        write_atomically(self.root / name, json.dumps(content) + "\n")

    def forget_names(self) -> None:
        """Read names anew when they are asked for next."""
        self.__dict__.pop("names", None)

    def configure(self, index: IndexConfig) -> None:
        """Change how shards search."""
        self._write(replace(self.manifest(), index=index))

    def _write(self, manifest: Manifest) -> None:
        values = asdict(manifest) | {"index": manifest.index.model_dump(mode="json")}
        write_atomically(self.root / MANIFEST, json.dumps(values, indent=1) + "\n")

    @cached_property
    def names(self) -> pa.ChunkedArray:
        """(N,) names in the order of rows."""
        parts = [
            pq.read_table(self.root / f"{segment.name}.parquet").column(ID) for segment in self.manifest().segments
        ]
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.string())

    def check_names(self, path: Path) -> None:
        """See that no name comes twice.

        Raises:
            UserError: one does.
        """
        counts = self.names.value_counts()
        if len(counts) < len(self.names):
            twice = counts.filter(pa.compute.greater(counts.field("counts"), 1))[0]["values"].as_py()
            raise UserError(f"{path}: '{twice}' comes more than once in {ID}; give each vector its own name")

    def read(self, segment: Segment, start: int, rows: int) -> np.ndarray:
        """(rows, D) float32 of a segment from its row `start`."""
        dim = self.manifest_dim
        path = self.root / f"{segment.name}.f32"
        values = np.fromfile(path, np.float32, rows * dim, offset=start * dim * BYTES)
        return values.reshape(rows, dim)

    @cached_property
    def manifest_dim(self) -> int:
        """D; it never changes."""
        return self.manifest().dim

    def scan(self, segment: Segment, rows: int = READ_ROWS) -> Iterator[tuple[int, np.ndarray]]:
        """(number of the first row, block) over a segment. Read, not mapped: mapped pages would count as memory."""
        for start in range(0, segment.rows, rows):
            block = self.read(segment, start, min(rows, segment.rows - start))
            yield segment.start + start, block

    def read_rows(self, start: int, stop: int, manifest: Manifest) -> np.ndarray:
        """(stop - start, D) float32 of consecutive rows, over segments."""
        parts = []
        for segment in manifest.segments:
            first, last = max(start, segment.start), min(stop, segment.start + segment.rows)
            if first < last:
                parts.append(self.read(segment, first - segment.start, last - first))
        return np.concatenate(parts)

    def gather(self, rows: np.ndarray, segments: tuple[Segment, ...]) -> np.ndarray:
        """(n, D) float32 of any rows of some segments."""
        dim = self.manifest_dim
        found = np.empty((len(rows), dim), np.float32)
        for segment in segments:
            inside = (rows >= segment.start) & (rows < segment.start + segment.rows)
            if inside.any():
                mapped = np.memmap(self.root / f"{segment.name}.f32", np.float32, "r").reshape(-1, dim)
                found[inside] = mapped[rows[inside] - segment.start]
        return found


class _SegmentWriter:
    def __init__(self, root: Path, number: int, start: int, shard: int) -> None:
        self._root, self._name, self._start, self._shard = root, f"segment-{number:05d}", start, shard
        self._digest, self._rows = VectorHash(), 0
        self._partial = root / f".{self._name}.partial"
        self._file = self._partial.open("wb")
        self._ids: list[pa.Array] = []

    def write(self, ids: pa.Array, vectors: np.ndarray) -> None:
        vectors = np.ascontiguousarray(vectors, np.float32)
        self._digest.update(ids, vectors)
        self._ids.append(ids)
        self._rows += len(vectors)
        vectors.tofile(self._file)

    def close(self) -> Segment:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        ids = pa.chunked_array(self._ids, pa.string())
        pq.write_table(pa.table({ID: ids}), self._root / f"{self._name}.parquet")
        self._partial.replace(self._root / f"{self._name}.f32")
        return Segment(self._name, self._start, self._rows, self._shard, self._digest.hexdigest())
