"""Terms that the published recipes leave at weight 0: reconstruction, alignment, pairwise CRF, labels as signal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ovseg_ray.config import Config
from ovseg_ray.methods.stego.correspondence import normalised, sample

CRF_SIZE = 56
CRF_SAMPLES = 1000


class PairwiseCrfConfig(Config):
    """The kernel of the pairwise CRF loss."""

    alpha: float = Field(0.5, gt=0, description="squared distance scale beside the colour")
    beta: float = Field(0.15, gt=0, description="squared colour scale")
    gamma: float = Field(0.05, gt=0, description="squared distance scale alone")
    appearance: float = Field(10.0, description="w1: weight of distance and colour together")
    smoothness: float = Field(3.0, description="w2: weight of distance alone")
    shift: float = Field(0.0, description="subtracted from the kernel")


def reconstruction_loss(decoded: Tensor, features: Tensor) -> Tensor:
    """Minus the mean cosine of (B, C, h, w) features and what a decoder made of their codes."""
    return -(normalised(decoded) * normalised(features)).sum(1).mean()


def alignment_loss(codes: Tensor, augmented: Tensor, points: Tensor) -> Tensor:
    """Minus the mean cosine of an augmented image's codes and the original's, sampled where its pixels come from.

    Args:
        codes: (B, D, h, w) of the originals.
        augmented: (B, D, h, w) of the augmented images.
        points: (B, H, W, 2) in -1..1: where each pixel of the augmented image lies in the original.
    """
    size = augmented.shape[2]
    coarse = F.interpolate(points.permute(0, 3, 1, 2), (size, size), mode="bilinear", align_corners=False)
    moved = sample(codes, coarse.permute(0, 2, 3, 1))
    return -(normalised(moved) * normalised(augmented)).sum(1).mean()


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


def label_signal(target: Tensor, classes: int) -> Tensor:
    """Labels in the place of features: (B, h, w) int64 in -1..K-1 -> (B, K + 1, h, w) one-hot, channel 0 unlabelled."""
    return F.one_hot(target + 1, classes + 1).movedim(-1, 1).float()
