"""How well images and captions find each other."""

from __future__ import annotations

import torch
from torch import Tensor

RANKS = (1, 5)


def recall(images: Tensor, texts: Tensor, captions: Tensor) -> dict[str, float]:
    """Recall at 1 and 5 over all pairs, the mean of both directions.

    Equal captions are one answer: an image has found its own where it has found an equal one.

    Args:
        images: (N, D) unit vectors.
        texts: (N, D) unit vectors of their captions.
        captions: (N, L) tokens, by which captions are equal.

    Returns:
        `recall_at_1`, `recall_at_5`: fractions in 0..1.
    """
    cosines = images @ texts.T
    caption = torch.unique(captions, dim=0, return_inverse=True)[1]
    same = caption[:, None] == caption[None]
    return {f"recall_at_{rank}": (_found(cosines, same, rank) + _found(cosines.T, same, rank)) / 2 for rank in RANKS}


def _found(cosines: Tensor, same: Tensor, rank: int) -> float:
    """Share of rows with a right column among the `rank` best."""
    best = cosines.topk(min(rank, cosines.shape[1]), dim=1).indices
    return same.gather(1, best).any(1).float().mean().item()
