"""From the tokens of a vision transformer to a feature map (Ranftl et al. 2021, section 3, "reassemble")."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ray.networks.config import Readout
from ovseg_ray.networks.readout import readout_add, readout_ignore, readout_project
from ovseg_ray.networks.token_linear import TokenLinear


class Reassemble(nn.Module):
    """Readout, 1x1 convolution, change of resolution by a power of two; all with biases."""

    def __init__(self, width: int, channels: int, source: int, target: int, readout: Readout) -> None:
        """
        Args:
            width: channels of a token.
            channels: of the map.
            source: stride of the grid of tokens.
            target: stride of the map, at most twice `source`.
            readout: what becomes of the class token.
        """
        super().__init__()
        self.readout = TokenLinear(2 * width, width) if readout == "project" else None
        self._add = readout == "add"
        self.project = nn.Conv2d(width, channels, 1)
        self.resample: nn.Module = nn.Identity()
        if target < source:
            factor = source // target
            self.resample = nn.ConvTranspose2d(channels, channels, factor, factor)
        elif target > source:
            self.resample = nn.Conv2d(channels, channels, 3, 2, 1)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """
        Args:
            tokens: (B, 1 + h * w, width), class token first, patches row by row.
            grid: (h, w).

        Returns:
            (B, channels, h * source / target, w * source / target).
        """
        if self.readout is not None:
            patches = readout_project(tokens, self.readout)
        else:
            patches = readout_add(tokens) if self._add else readout_ignore(tokens)
        return self.resample(self.project(patches.transpose(1, 2).unflatten(2, grid)))


def resize_positions(positions: Tensor, prefix: int, stored: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Position embeddings for another grid: bilinear, corners not aligned; those of prefix tokens are untouched.

    Args:
        positions: (1, prefix + h * w, D).
        prefix: tokens before the patches that have a position.
        stored: (h, w).
        grid: (h', w') wanted.

    Returns:
        (1, prefix + h' * w', D).
    """
    if stored == grid:
        return positions
    patches = positions[:, prefix:].transpose(1, 2).unflatten(2, stored)
    resized = F.interpolate(patches, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([positions[:, :prefix], resized.flatten(2).transpose(1, 2)], dim=1)
