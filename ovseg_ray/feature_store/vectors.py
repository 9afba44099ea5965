"""One vector an image, from a feature store, a bare .npy or any parquet; read in blocks, never as a whole."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from ovseg_ray.errors import UserError

BLOCK_ROWS = 16384
ID, VECTOR = "image_id", "vector"
PARTS, MANIFEST = "parts", "manifest.json"  # of a feature store

Block = tuple[pa.Array, np.ndarray]


class Vectors(ABC):
    """N vectors with distinct names.

    Attributes:
        path: where they are.
        rows: N.
        dim: D.
    """

    path: Path
    rows: int
    dim: int

    @abstractmethod
    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[Block]:
        """All rows in order: (n,) string names and (n, D) float32 vectors as stored, n at most `size`.

        Raises:
            UserError: a vector of another length or with values that are not finite.
        """

    def fingerprint(self) -> str:
        """Hash of names and vectors, in order."""
        digest = VectorHash()
        for ids, vectors in self.blocks():
            digest.update(ids, vectors)
        return digest.hexdigest()


class VectorHash:
    """Hash of names and float32 vectors, however they are cut into blocks."""

    def __init__(self) -> None:
        self._ids, self._vectors = hashlib.sha256(), hashlib.sha256()

    def update(self, ids: pa.Array, vectors: np.ndarray) -> None:
        """Take the next rows."""
        self._ids.update("".join(f"{name}\0" for name in ids.to_pylist()).encode())
        self._vectors.update(np.ascontiguousarray(vectors, np.float32).data)

    def hexdigest(self) -> str:
        """16 hexadecimal digits."""
        return hashlib.sha256(self._ids.digest() + self._vectors.digest()).hexdigest()[:16]


class NpyVectors(Vectors):
    """An (N, D) array of floats; row numbers are the names."""

    def __init__(self, path: Path) -> None:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: cannot be read as an .npy array ({error}); write it with numpy.save") from error
        if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
            shape = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
            raise UserError(f"{path}: holds {shape}; give floats of shape (vectors, numbers of each)")
        self.path, (self.rows, self.dim) = path, array.shape

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[Block]:
        for start in range(0, self.rows, size):
            # opened anew: pages of a mapping that stays open count as this process's memory
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
            vectors = np.array(array[start : start + size], np.float32)
            names = pa.array([str(row) for row in range(start, start + len(vectors))])
            yield names, _finite(vectors, names, self.path)


class ParquetVectors(Vectors):
    """Parquet files with `image_id` and `vector` (a list of floats, as long in every row).

    Args:
        path: what errors call them.
        files: in order.
    """

    def __init__(self, path: Path, files: list[Path]) -> None:
        try:
            self._dataset = pads.dataset([str(file) for file in files], format="parquet")
            self.rows = self._dataset.count_rows()
        except (OSError, pa.ArrowException) as error:
            problem = str(error).splitlines()[0].partition(" Is this a")[0]
            raise UserError(f"{path}: cannot be read as parquet ({problem}); give whole parquet files") from error
        self.path = path
        names = self._dataset.schema.names
        for column in (ID, VECTOR):
            if column not in names:
                raise UserError(f"{path}: has no column '{column}' (it has {', '.join(names)}); write one")
        if self.rows == 0:
            raise UserError(f"{path}: holds no rows; give at least two vectors")
        self.dim = next(self._raw(1))[1].shape[1]

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[Block]:
        for ids, vectors in self._raw(size):
            if vectors.shape[1] != self.dim:
                raise UserError(
                    f"{self.path}: '{ids[0].as_py()}' has a vector of {vectors.shape[1]} numbers, others of "
                    f"{self.dim}; make all as long"
                )
            yield ids, _finite(vectors, ids, self.path)

    def _raw(self, size: int) -> Iterator[Block]:
        # little read-ahead: the default keeps dozens of batches in memory
        batches = self._dataset.to_batches(
            columns=[ID, VECTOR], batch_size=size, batch_readahead=1, fragment_readahead=1, use_threads=False
        )
        for batch in batches:
            if batch.num_rows:
                yield batch.column(0).cast(pa.string()), self._matrix(batch.column(0), batch.column(1))

    def _matrix(self, ids: pa.Array, column: pa.Array) -> np.ndarray:
        if isinstance(column, pa.ExtensionArray):  # what Ray Data writes
            column = column.storage
        kind = column.type
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not lists or not pa.types.is_floating(kind.value_type):
            raise UserError(f"{self.path}: column '{VECTOR}' holds {kind}; write lists of floats")
        lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
        if column.null_count or len(lengths) != 1 or not lengths[0] > 0:
            raise UserError(
                f"{self.path}: vectors have different lengths or are missing near '{ids[0].as_py()}'; make all as long"
            )
        return column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(column), -1)


def open_vectors(path: str | Path) -> Vectors:
    """Vectors of a feature store, a bare .npy, a parquet file, or a folder of parquet files.

    Raises:
        UserError: none of these, or not whole.
    """
    path = Path(path)
    if path.suffix == ".npy" and path.is_file():
        return NpyVectors(path)
    if path.is_dir():
        parts = path / PARTS
        if parts.is_dir():
            if not (path / MANIFEST).is_file():
                raise UserError(f"{path}: this feature store is not finished; run the same 'ovseg-ray embed' again")
            return ParquetVectors(path, sorted(parts.glob("*.parquet")))
        files = sorted(path.glob("*.parquet"))
        if files:
            return ParquetVectors(path, files)
        raise UserError(
            f"{path}: holds no parquet files; give a feature store, an .npy, or parquet with {ID}, {VECTOR}"
        )
    if path.is_file():
        return ParquetVectors(path, [path])
    raise UserError(f"{path}: no such file or directory; make a feature store with 'ovseg-ray embed DATA {path}'")


def normalised(vectors: np.ndarray, ids: pa.Array, path: Path) -> np.ndarray:
    """(n, D) float32 of length 1.

    Raises:
        UserError: a vector of zeros, which has no direction.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not lengths.all():
        name = ids[int(np.flatnonzero(lengths[:, 0] == 0)[0])].as_py()
        raise UserError(f"{path}: the vector of '{name}' is all zeros and has no neighbours; leave it out")
    return vectors / lengths


def _finite(vectors: np.ndarray, ids: pa.Array, path: Path) -> np.ndarray:
    fine = np.isfinite(vectors).all(1)
    if not fine.all():
        name = ids[int(np.flatnonzero(~fine)[0])].as_py()
        raise UserError(f"{path}: the vector of '{name}' holds a value that is not finite; leave it out")
    return vectors
