"""The segmentation head (Hamilton et al. 2022, section 3.1): features to codes, a 1x1 network of two branches."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Projection = Literal["nonlinear", "linear", "none"]
DROPOUT = 0.1


class ChannelMasks(NamedTuple):
    """Channel dropout of one pass: (B, C, 1, 1) factors, 0 or 1 / 0.9, independent of each other."""

    linear: Tensor
    nonlinear: Tensor
    features: Tensor

    @classmethod
    def of(cls, kept: Tensor, probability: float = DROPOUT) -> ChannelMasks:
        """Of (B, 3, C) bools, True where a channel is kept."""
        factors = kept.float()[..., None, None] / (1 - probability)
        return cls(*factors.unbind(1))


class Head(nn.Module):
    """code = cluster1(f) + cluster2(f); keys are those of published checkpoints.

    Args:
        channels: C of the features.
        width: D of the codes.
        projection: "linear" leaves the second branch out; "none" returns the features.
    """

    def __init__(self, channels: int, width: int, projection: Projection = "nonlinear") -> None:
        super().__init__()
        self.width = channels if projection == "none" else width
        self.cluster1: nn.Sequential | None = None
        self.cluster2: nn.Sequential | None = None
        if projection != "none":
            self.cluster1 = nn.Sequential(nn.Conv2d(channels, width, 1))
        if projection == "nonlinear":
            self.cluster2 = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, width, 1))

    def forward(self, features: Tensor, masks: ChannelMasks | None = None) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w), not normalised; `masks` only in training, each branch its own."""
        if self.cluster1 is None:
            return features
        code = self.cluster1(features if masks is None else features * masks.linear)
        if self.cluster2 is not None:
            code = code + self.cluster2(features if masks is None else features * masks.nonlinear)
        return torch.as_tensor(code)
