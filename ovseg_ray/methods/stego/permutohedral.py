"""High-dimensional Gaussian filtering on the permutohedral lattice (Adams, Baek and Davis, Eurographics 2010).

What the mean-field CRF of Krähenbühl and Koltun (NeurIPS 2011) filters with. Splat, blur and slice are weighted sums of
rows, each an `embedding_bag`: it adds whole rows of channels, which SciPy's sparse products do not. The lattice is an
approximation, so results are only comparable between programs that use the same one; page numbers below are those of
Adams et al.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor


class Lattice:
    """The lattice around a set of points.

    Args:
        features: (N, d) float32, scaled so that the filter's standard deviation is 1.
    """

    def __init__(self, features: np.ndarray) -> None:
        count, dims = features.shape
        keys, weights = _simplices(features.astype(np.float32))
        places, inverse = _numbered(keys.reshape(-1, dims))
        corners = _indices(inverse).view(count, dims + 1)
        self._slice = _Sums(corners, torch.from_numpy(weights) / (1.0 + 2.0**-dims))
        rows = np.arange(0, count * (dims + 1) + 1, dims + 1)
        # the last vertex, which takes and gives nothing, stands for all that do not exist
        splat = csr_matrix((weights.reshape(-1), inverse, rows), shape=(count, len(places) + 1)).T.tocsr()
        self._splat = _Sums(_indices(splat.indices), torch.from_numpy(splat.data), _indices(splat.indptr[:-1]))
        halves = torch.tensor([1.0, 0.5, 0.5]).repeat(len(places) + 1, 1)
        self._blurs = [_Sums(_indices(sources), halves) for sources in _neighbours(places)]

    def filter(self, values: Tensor) -> Tensor:
        """Filter (N, C) float32 values; same shape out."""
        vertices = self._splat(values)
        for blur in self._blurs:
            vertices = blur(vertices)
        return self._slice(vertices)


class _Sums:
    """Weighted sums of rows.

    Args:
        rows: (M, k) of each sum, or of all one after another.
        weights: of each row.
        starts: (M,) where each sum starts in `rows`, if these are one after another.
    """

    def __init__(self, rows: Tensor, weights: Tensor, starts: Tensor | None = None) -> None:
        self._rows, self._weights, self._starts = rows, weights, starts

    def __call__(self, values: Tensor) -> Tensor:
        return F.embedding_bag(self._rows, values, self._starts, mode="sum", per_sample_weights=self._weights)


def _indices(numbers: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers, np.int32))


def _simplices(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lattice points around each feature.

    Returns:
        (N, d + 1, d) int16 keys of the vertices and their (N, d + 1) float32 barycentric weights.
    """
    count, dims = features.shape
    elevated = _elevated(features)
    step = np.float32(dims + 1)
    down = np.float32(1.0) / step
    # the nearest 0-coloured point, by rounding each coordinate (p. 4)
    above, below = np.ceil(elevated * down) * step, np.floor(elevated * down) * step
    nearest = np.where(above - elevated < elevated - below, above, below)
    off_plane = np.rint(nearest.sum(1) * down).astype(np.int32)
    # rank of each coordinate's remainder, largest first; the earlier coordinate first at ties
    rest = elevated - nearest
    order = np.argsort(-rest, axis=1, kind="stable")
    rank = np.empty((count, dims + 1), np.int32)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(dims + 1, dtype=np.int32), rank.shape), axis=1)
    # walk back onto the plane of coordinates that sum to 0
    rank += off_plane[:, None]
    low, high = rank < 0, rank > dims
    nearest += step * low - step * high
    rank += (dims + 1) * (low.astype(np.int32) - high)

    rest = (elevated - nearest) * down  # barycentric coordinates (p. 10)
    weights = np.zeros((count, dims + 2), np.float32)
    rows = np.arange(count)
    for axis in range(dims + 1):
        weights[rows, dims - rank[:, axis]] += rest[:, axis]
        weights[rows, dims - rank[:, axis] + 1] -= rest[:, axis]
    weights[:, 0] += 1 + weights[:, dims + 1]

    remainder = np.arange(dims + 1)
    # vertex r adds r to the coordinates of rank up to d - r, and r - (d + 1) to the others
    canonical = np.where(
        remainder[None, :] <= dims - remainder[:, None], remainder[:, None], remainder[:, None] - dims - 1
    )
    keys = nearest[:, None, :dims].astype(np.int32) + canonical[:, rank[:, :dims]].transpose(1, 0, 2)
    return keys, weights[:, : dims + 1]


def _elevated(features: np.ndarray) -> np.ndarray:
    """(N, d) -> (N, d + 1): onto the hyperplane of the lattice (p. 5), scaled by the blur's own deviation (p. 6)."""
    count, dims = features.shape
    index = np.arange(dims)
    deviation = np.sqrt(2.0 / 3.0) * (dims + 1)
    scaled = features * (deviation / np.sqrt((index + 1.0) * (index + 2.0))).astype(np.float32)
    elevated = np.empty((count, dims + 1), np.float32)
    total = np.zeros(count, np.float32)
    for axis in range(dims, 0, -1):
        elevated[:, axis] = total - axis * scaled[:, axis - 1]
        total += scaled[:, axis - 1]
    elevated[:, 0] = total
    return elevated


def _packed(keys: np.ndarray, low: np.ndarray, width: np.ndarray) -> np.ndarray:
    """(M, d) integer keys as one int64 each, in mixed radix; they must lie in low .. low + width - 1."""
    packed = np.zeros(len(keys), np.int64)
    for axis in range(keys.shape[1]):
        packed *= width[axis]
        packed += keys[:, axis] - low[axis]
    return packed


def _numbered(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys (M, d), and the number of each of the given ones."""
    low = keys.min(0)
    width = keys.max(0) - low + 1
    if float(np.prod(width.astype(np.float64))) > 2**62:
        places, inverse = np.unique(keys, axis=0, return_inverse=True)
        return places, inverse.reshape(-1)
    _, first, inverse = np.unique(_packed(keys, low, width), return_index=True, return_inverse=True)
    return keys[first], inverse.reshape(-1)


def _neighbours(places: np.ndarray) -> list[np.ndarray]:
    """For each of the d + 1 axes, (M + 1, 3): each vertex and those beside it; the vertex M where there is none."""
    size, dims = places.shape
    # room for one step along any axis
    low, high = places.min(0) - dims - 1, places.max(0) + dims + 1
    width = (high - low + 1).astype(np.int64)
    known = _packed(places, low, width)
    order = np.argsort(known)
    known = known[order]
    found = []
    for axis in range(dims + 1):
        sources = np.full((size + 1, 3), size)
        sources[:size, 0] = np.arange(size)
        for column, direction in ((1, 1), (2, -1)):
            moved = places - direction
            if axis < dims:
                moved[:, axis] = places[:, axis] + direction * dims
            wanted = _packed(moved, low, width)
            position = np.minimum(np.searchsorted(known, wanted), size - 1)
            sources[:size, column] = np.where(known[position] == wanted, order[position], size)
        found.append(sources)
    return found
