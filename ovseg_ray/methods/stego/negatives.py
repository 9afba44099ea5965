"""Which images of a batch are each other's random pairs."""

from __future__ import annotations

import torch
from torch import Tensor


def cyclic_negatives(order: Tensor) -> Tensor:
    """A permutation without fixed points, from any permutation: each image takes the next in `order`.

    Args:
        order: (B,) int64 permutation of 0..B-1, B of 2 or more.

    Returns:
        (B,) int64; every image is the negative of exactly one other.
    """
    negatives = torch.empty_like(order)
    negatives[order] = order.roll(-1)
    return negatives


def original_negatives(order: Tensor) -> Tensor:
    """The original's rule: fixed points of a permutation move on by one, modulo B.

    No image is its own negative, but the result is mostly no permutation: some images serve twice, some never
    (64 % of draws at B = 16).

    Args:
        order: (..., B) int64 permutations of 0..B-1.
    """
    size = order.shape[-1]
    fixed = order == torch.arange(size, device=order.device)
    return (order + fixed) % size


def draw_negatives(count: int, images: int, *, seed: int, reference: bool = False) -> Tensor:
    """(count, images) int64 draws, the same for the same seed; by the original's rule with `reference`."""
    generator = torch.Generator().manual_seed(seed)
    rule = original_negatives if reference else cyclic_negatives
    return torch.stack([rule(torch.randperm(images, generator=generator)) for _ in range(count)])
