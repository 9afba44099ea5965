"""Argmax and softmax over labels that come in chunks, so that scores of all of them never exist at once."""

from __future__ import annotations

import torch
from torch import Tensor


class RunningArgmax:
    """The best label of every place so far, and the sum of exponentials relative to its score.

    Chunks come in the order of labels: at a tie the earlier label stays.
    """

    def __init__(self) -> None:
        self._known: tuple[Tensor, Tensor, Tensor] | None = None

    def beaten_by(self, top: Tensor) -> Tensor:
        """Where a chunk whose best scores are `top` wins, (...) bool: its labels matter nowhere else."""
        return torch.ones_like(top, dtype=torch.bool) if self._known is None else top > self._known[1]

    def add(self, label: Tensor, top: Tensor, total: Tensor) -> None:
        """Take a chunk in.

        Args:
            label: (...) int64, the best label of the chunk; anything where it does not win.
            top: (...) float32, its score.
            total: (...) float32, sum over the chunk of exp(score - top).
        """
        if self._known is None:
            self._known = label, top, total
            return
        winner, best, sum_ = self._known
        highest = torch.maximum(top, best)
        self._known = (
            torch.where(top > best, label, winner),
            highest,
            sum_ * (best - highest).exp() + total * (top - highest).exp(),
        )

    def result(self) -> tuple[Tensor, Tensor]:
        """Best label, (...) int64, and its softmax probability, (...) float32; after at least one chunk."""
        assert self._known is not None, "there is at least one label"
        winner, _, total = self._known
        return winner, total.reciprocal()
