"""Exact top-k of inner products over blocks of vectors, and the merging of such lists. Plain arrays, no Ray."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

NOTHING = -1  # row of a place that no vector fills; its score is -inf
SMALLEST_PRODUCT = 20  # faiss computes fewer queries at once without BLAS, ten times slower


class Found(NamedTuple):
    """`scores` (n, k) float32, descending, and `rows` (n, k) int64; equal scores by ascending row."""

    scores: np.ndarray
    rows: np.ndarray


def nothing(queries: int, k: int) -> Found:
    """Lists that hold nothing yet."""
    return Found(np.full((queries, k), -np.inf, np.float32), np.full((queries, k), NOTHING, np.int64))


def merge(lists: Iterable[Found], k: int) -> Found:
    """The best k of several lists of the same queries."""
    parts = list(lists)
    scores = np.concatenate([part.scores for part in parts], axis=1)
    rows = np.concatenate([part.rows for part in parts], axis=1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    best = Found(np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1))
    if best.rows.shape[1] == k:
        return best
    missing = nothing(len(scores), k - best.rows.shape[1])
    return Found(np.hstack([best.scores, missing.scores]), np.hstack([best.rows, missing.rows]))


def faiss_top_k(queries: np.ndarray, block: np.ndarray, k: int) -> Found:
    """By faiss, on the CPU.

    Args:
        queries: (n, D) float32.
        block: (m, D) float32.
        k: at most m.
    """
    import faiss

    faiss.cvar.distance_compute_blas_threshold = SMALLEST_PRODUCT
    scores, rows = faiss.knn(queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)
    return Found(scores, rows)


def torch_top_k(queries: np.ndarray, block: np.ndarray, k: int, device: str = "cpu") -> Found:
    """By blocked product and top-k, on any device of torch; arguments as `faiss_top_k`."""
    import torch

    with torch.inference_mode():
        a, b = (torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (queries, block))
        scores, rows = (a @ b.T).topk(k, dim=1)
        return Found(scores.float().cpu().numpy(), rows.cpu().numpy())


def exact_top_k(queries: np.ndarray, block: np.ndarray, k: int, device: str = "cpu") -> Found:
    """By faiss where it is installed and no GPU is given, else by torch."""
    k = min(k, len(block))
    if device == "cpu" and has_faiss():
        return faiss_top_k(queries, block, k)
    return torch_top_k(queries, block, k, device)


def has_faiss() -> bool:
    """Whether faiss can be imported."""
    import importlib.util

    return importlib.util.find_spec("faiss") is not None
