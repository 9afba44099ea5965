"""Which index a table is built with, where nobody has said."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ovseg_ray.neighbours.config import IndexKind

EXACT_WORK = 4e13  # products of two numbers that a shard is let compute: half an hour of a slow core (measured)


class Choice(NamedTuple):
    """An index and why it was taken, for people."""

    kind: IndexKind
    reason: str


def choose_index(
    rows: int, dim: int, shards: int, *, gpu: bool, faiss: bool, fits: Callable[[IndexKind], bool]
) -> Choice:
    """Exact where that ends soon, else the most accurate approximate index that fits the memory, else exact after all.

    Memory alone would always choose the exact search: it reads vectors from storage, however many there are, and what
    grows with their square is its time.

    Args:
        rows: N, each of which asks for its nearest.
        dim: D.
        shards: that search.
        gpu: whether each has a GPU, where exact search is quick and approximate indices are not built.
        faiss: whether it is installed, without which there is no approximate index.
        fits: whether the memory plan of a kind does.
    """
    if gpu:
        return Choice("flat", "exact, quick on a GPU")
    if rows * rows * dim <= EXACT_WORK * shards:
        return Choice("flat", "exact, which does not take long")
    if not faiss:
        return Choice("flat", "exact, which takes long; faster ones need faiss: pip install faiss-cpu")
    if fits("ivf"):
        return Choice("ivf", "approximate, since exact search takes long; --index flat is exact")
    if fits("ivfpq"):
        return Choice(
            "ivfpq", "approximate, since exact search takes long and ivf exceeds --memory; --index flat is exact"
        )
    return Choice("flat", "exact, from storage, which takes long: no approximate index fits --memory; raise it")
