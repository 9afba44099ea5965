"""The small image encoder as an image tower: what a CPU learns shapes with in minutes, and LSeg can start from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ovseg_ray.networks import SmallEncoder

POOLED_MAPS = 2  # the coarsest: strides 16 and 32


class PooledTower(nn.Module):
    """`SmallEncoder` under maximum and mean pooling of its two coarsest maps.

    open_clip's own small towers pool by attention or mean; the maximum says "somewhere there is a ring" without
    having to learn where to look, which is most of what a caption says.

    Args:
        channels: widths of the encoder's four stages.
        embed_dim: width of the joint space.
    """

    def __init__(self, channels: Sequence[int], embed_dim: int) -> None:
        super().__init__()
        self.encoder = SmallEncoder(channels, (1, 1, 1, 1))
        self.pooled_width = 2 * sum(channels[-POOLED_MAPS:])
        self.projection = nn.Linear(self.pooled_width, embed_dim)

    def pool(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, pooled_width)."""
        maps = self.encoder(images)[-POOLED_MAPS:]
        return torch.cat([pooled for m in maps for pooled in (m.amax((2, 3)), m.mean((2, 3)))], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, embed_dim)."""
        return self.projection(self.pool(images))
