"""What becomes of a vision transformer's class token when its patches turn into a map (Ranftl et al. 2021, eq. 4-6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def readout_ignore(tokens: Tensor) -> Tensor:
    """Drop the class token: (B, 1 + N, D) -> (B, N, D)."""
    return tokens[:, 1:]


def readout_add(tokens: Tensor) -> Tensor:
    """Add the class token to every patch token: (B, 1 + N, D) -> (B, N, D)."""
    return tokens[:, 1:] + tokens[:, :1]


def readout_project(tokens: Tensor, projection: nn.Linear) -> Tensor:
    """Project [patch token, class token] back to the width, then GELU: (B, 1 + N, D) -> (B, N, D).

    Args:
        tokens: class token first.
        projection: from 2D to D.
    """
    patches = tokens[:, 1:]
    return F.gelu(projection(torch.cat([patches, tokens[:, :1].expand_as(patches)], dim=-1)))
