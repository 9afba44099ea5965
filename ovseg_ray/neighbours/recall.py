"""How much of the truth an approximate search finds, and how hard it must look to find enough."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ovseg_ray.errors import UserError
from ovseg_ray.neighbours.storage import Manifest, Storage
from ovseg_ray.neighbours.top_k import Found

SAMPLE = 1000
FIRST_EFFORT = 8
SAME_SCORE = 1e-6  # two that are as near are each other's equal: which one is found says nothing


class Search(Protocol):
    """What is measured."""

    storage: Storage

    def search(self, queries: np.ndarray, k: int, effort: int | None = None) -> Found: ...

    def most_effort(self) -> int: ...


def recall(found: Found, truth: Found) -> float:
    """Share of the true neighbours that were found, or others exactly as near, over all queries; in 0..1."""
    real = truth.rows >= 0
    least = np.where(real, truth.scores, np.inf).min(1, keepdims=True)
    hits = (found.scores >= least - SAME_SCORE) & (found.rows >= 0)
    return float(np.minimum(hits.sum(1), real.sum(1)).sum() / max(real.sum(), 1))


def choose_effort(service: Search, manifest: Manifest, k: int) -> tuple[float, int]:
    """The recall at k of an approximate index on a sample of its own vectors, and the effort that it takes.

    Raises:
        UserError: it stays below the floor.
    """
    config = manifest.index
    rows = np.unique(np.linspace(0, manifest.rows - 1, min(SAMPLE, manifest.rows)).astype(int))
    queries = service.storage.gather(rows, manifest.segments)
    truth = service.search(queries, k)
    most = service.most_effort()
    effort = config.effort or FIRST_EFFORT
    while True:
        reached = recall(service.search(queries, k, effort), truth)
        if reached >= config.recall_floor:
            return reached, effort
        if config.effort is not None or effort >= most:
            way = "leave --effort out or raise it" if config.effort is not None else "use --index flat"
            raise UserError(
                f"--index {config.kind}: finds {reached:.4f} of the true {k} neighbours, below the floor of "
                f"{config.recall_floor}; {way}, or lower --recall"
            )
        effort *= 2
