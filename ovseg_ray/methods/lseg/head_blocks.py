"""Spatial regularisation blocks (Li et al. 2022, section 4.4): one 3x3 convolution shared by all labels.

They clean score maps without knowing labels: permuting the labels permutes the result, and their number is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ovseg_ray.config import Config


class HeadBlockConfig(Config):
    """Spatial regularisation of the score maps."""

    kind: Literal["none", "depthwise", "bottleneck"] = Field(
        "none", description="bottleneck adds the maximum over labels to every label"
    )
    depth: int = Field(1, ge=1, description="applications of the same weights")
    activation: Literal["relu", "lrelu", "tanh"] = Field("lrelu", description="between applications")


class HeadBlock(nn.Module):
    """`depth` applications of one shared convolution, with the activation between them and none after the last."""

    def __init__(self, config: HeadBlockConfig) -> None:
        super().__init__()
        self.depth = config.depth
        self.needs_maximum = config.kind == "bottleneck"
        self._activation = config.activation
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def apply_once(self, x: Tensor, maximum: Tensor | None = None, *, activate: bool) -> Tensor:
        """One application.

        Args:
            x: (B, K, H, W) scores.
            maximum: (B, 1, H, W) of `x` over *all* labels, where `x` holds only some of them; default: of `x`.
            activate: whether the activation follows.
        """
        labels = x.shape[1]
        y = self.conv(x.flatten(0, 1).unsqueeze(1)).view(-1, labels, *x.shape[2:])
        if self.needs_maximum:
            y = y + (x.amax(1, keepdim=True) if maximum is None else maximum)
        if not activate:
            return y
        if self._activation == "tanh":
            return torch.tanh(y)
        return F.relu(y) if self._activation == "relu" else F.leaky_relu(y, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, H, W) scores of all labels, same size out."""
        for index in range(self.depth):
            x = self.apply_once(x, activate=index < self.depth - 1)
        return x

    def apply_some(self, x: Tensor, maxima: Sequence[Tensor], applications: int) -> Tensor:
        """The first `applications` of the block on a part of the labels.

        Args:
            x: (B, k, H, W) scores of some labels.
            maxima: the maximum over all labels of each application's input; empty for the depthwise kind.
            applications: how many, 0 to `depth`.
        """
        for index in range(applications):
            maximum = maxima[index] if self.needs_maximum else None
            x = self.apply_once(x, maximum, activate=index < self.depth - 1)
        return x
