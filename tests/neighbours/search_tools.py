"""Vectors, and plain search to compare with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ovseg_ray.feature_store.vectors import open_vectors
from ovseg_ray.neighbours.config import IndexConfig
from ovseg_ray.neighbours.storage import Storage
from ovseg_ray.neighbours.top_k import Found


def clustered(rows: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    """Vectors around a few centres, as features of images are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(rows // 50, 2), dim))
    return (centres[rng.integers(len(centres), size=rows)] + 0.4 * rng.normal(size=(rows, dim))).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def brute_force(queries: np.ndarray, vectors: np.ndarray, k: int) -> Found:
    scores = unit(queries) @ unit(vectors).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Found(np.take_along_axis(scores, order, 1), order)


def storage_of(path: Path, vectors: np.ndarray, shards: int = 2, index: IndexConfig | None = None) -> Storage:
    np.save(path / "vectors.npy", vectors)
    return Storage.create(path / "index", open_vectors(path / "vectors.npy"), shards, index or IndexConfig())


def same(found: Found, expected: Found) -> None:
    np.testing.assert_allclose(found.scores, expected.scores, atol=2e-6)
    assert (found.rows == expected.rows).mean() > 0.999  # rounding may swap two that are as near
