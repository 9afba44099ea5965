"""Which vectors are no neighbours of which: the image itself, other crops of it, exact copies."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovseg_ray.data.crops import CROP_PATTERN
from ovseg_ray.neighbours.storage import Storage
from ovseg_ray.neighbours.top_k import NOTHING, Found

Removal = Literal["self", "same_image", "duplicates"]
REMOVALS: tuple[Removal, ...] = ("self", "same_image", "duplicates")


class Exclusion:
    """Tells, for pairs of rows, whether one may be the other's neighbour.

    Args:
        storage: the vectors.
        removals: what to leave out.
    """

    def __init__(self, storage: Storage, removals: tuple[Removal, ...]) -> None:
        self.removals = removals
        self._groups: list[np.ndarray] = []
        if "same_image" in removals:
            self._groups.append(_images(storage.names))
        if "duplicates" in removals:
            self._groups.append(_copies(storage))

    @property
    def most(self) -> int:
        """The most rows that are left out for any one query."""
        sizes = [int(np.bincount(group).max()) for group in self._groups]
        return sum(sizes) + ("self" in self.removals)

    @property
    def usual(self) -> int:
        """Rows beyond k to ask for at first: enough for nearly all queries."""
        sizes = [int(np.ceil(np.bincount(group).mean())) for group in self._groups]
        return sum(sizes) + ("self" in self.removals)

    def apply(self, queries: np.ndarray, found: Found) -> np.ndarray:
        """(n, k) bool: which of the found rows are neighbours of (n,) query rows."""
        rows = found.rows
        kept = rows != NOTHING
        if "self" in self.removals:
            kept &= rows != queries[:, None]
        for group in self._groups:
            # a row is in its own group, too: it leaves as its own copy only if "self" is asked for
            same = group[np.maximum(rows, 0)] == group[queries][:, None]
            kept &= ~same | (rows == queries[:, None])
        return kept


def _images(names: pa.ChunkedArray) -> np.ndarray:
    images = pc.replace_substring_regex(names, pattern=CROP_PATTERN, replacement="")
    return _numbers(images)


def _copies(storage: Storage) -> np.ndarray:
    """A number for each row, the same for rows with equal vectors."""
    parts = []
    for segment in storage.manifest().segments:
        for _, block in storage.scan(segment):
            parts.append(_digests(block))
    return np.unique(np.concatenate(parts), return_inverse=True)[1].reshape(-1)


def _digests(block: np.ndarray) -> np.ndarray:
    """(n,) 16-byte hashes of rows."""
    import hashlib

    rows = np.ascontiguousarray(block + np.float32(0))  # -0 is 0
    return np.array([hashlib.blake2b(row, digest_size=16).digest() for row in rows], dtype="V16").view("S16")


def _numbers(values: pa.ChunkedArray) -> np.ndarray:
    encoded = values.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.indices.to_numpy(zero_copy_only=False)
