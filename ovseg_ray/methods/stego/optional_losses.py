"""The pairwise CRF loss: a term that every published recipe leaves at weight 0 (there: 1000 pixels at 56 x 56)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ovseg_ray.config import Config


class PairwiseCrfConfig(Config):
    """The kernel of the pairwise CRF loss."""

    alpha: float = Field(0.5, gt=0, description="squared distance scale beside the colour")
    beta: float = Field(0.15, gt=0, description="squared colour scale")
    gamma: float = Field(0.05, gt=0, description="squared distance scale alone")
    appearance: float = Field(10.0, description="w1: weight of distance and colour together")
    smoothness: float = Field(3.0, description="w2: weight of distance alone")
    shift: float = Field(0.0, description="subtracted from the kernel")


def pairwise_crf_loss(guidance: Tensor, codes: Tensor, places: Tensor, config: PairwiseCrfConfig) -> Tensor:
    """Agreement of codes against closeness in place and colour, for all pairs of some pixels.

    Args:
        guidance: (B, 3, H, W) images, 56 pixels a side in the original.
        codes: (B, D, H, W), normalised.
        places: (2, n) int64 rows and columns of the pixels.
        config: the kernel.

    Returns:
        (B, n, n); its mean is the loss.
    """
    rows, columns = places
    colours, code = guidance[:, :, rows, columns], codes[:, :, rows, columns]
    distance = (places[:, :, None] - places[:, None, :]).square().sum(0)[None].to(guidance)
    contrast = (colours[:, :, :, None] - colours[:, :, None, :]).square().sum(1)
    kernel = (
        config.appearance * torch.exp(-distance / (2 * config.alpha) - contrast / (2 * config.beta))
        + config.smoothness * torch.exp(-distance / (2 * config.gamma))
        - config.shift
    )
    return -torch.einsum("bda,bdc->bac", code, code) * kernel
