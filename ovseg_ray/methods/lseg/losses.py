"""Loss terms over the labelled pixels of one label set, as sums, so that means over any batch can be made of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -1


def cross_entropy_sum(
    logits: Tensor, target: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Sum of the (weighted) cross-entropy over labelled pixels; 0 where there are none.

    Args:
        logits: (B, K, H, W) float32.
        target: (B, H, W) int64 in -1..K-1; -1 is ignored.
        class_weights: (K,) or None.
        label_smoothing: 0..1.
    """
    return F.cross_entropy(
        logits, target, class_weights, ignore_index=IGNORE, reduction="sum", label_smoothing=label_smoothing
    )


def pixel_weight(target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """What `cross_entropy_sum` is divided by: labelled pixels, each counted with its class weight; a scalar."""
    labelled = target != IGNORE
    if class_weights is None:
        return labelled.sum().float()
    return class_weights[target.clamp_min(0)].mul(labelled).sum()


def lovasz_softmax(logits: Tensor, target: Tensor, pixels: int) -> Tensor:
    """Lovász-softmax over the classes present (Berman et al. 2018), on a random draw of labelled pixels.

    Args:
        logits: (B, K, H, W) float32.
        target: (B, H, W) int64 in -1..K-1; -1 is ignored.
        pixels: how many are drawn (with replacement); all of them where there are not more.

    Returns:
        Scalar in 0..1; 0 where nothing is labelled.
    """
    labelled = (target.flatten() != IGNORE).nonzero()[:, 0]
    if len(labelled) == 0:
        return logits.sum() * 0.0
    if len(labelled) > pixels:
        labelled = labelled[torch.randint(len(labelled), (pixels,), device=labelled.device)]
    truth = target.flatten()[labelled]
    classes = logits.shape[1]
    probability = logits.permute(0, 2, 3, 1).reshape(-1, classes)[labelled].softmax(1).t()
    foreground = F.one_hot(truth, classes).t().to(probability.dtype)
    present = foreground.any(1)
    foreground, probability = foreground[present], probability[present]
    errors, order = (foreground - probability).abs().sort(dim=1, descending=True)
    return (errors * _jaccard_gradient(foreground.gather(1, order))).sum(1).mean()


def _jaccard_gradient(sorted_foreground: Tensor) -> Tensor:
    total = sorted_foreground.sum(1, keepdim=True)
    intersection = total - sorted_foreground.cumsum(1)
    union = total + (1 - sorted_foreground).cumsum(1)
    jaccard = 1 - intersection / union
    return torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], dim=1)
