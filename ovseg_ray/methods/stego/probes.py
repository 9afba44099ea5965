"""The two probes (Hamilton et al. 2022, section 3.3): cosine k-means over codes, and a linear classifier of codes.

Both see codes without gradient to the head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEST_ALPHA = 2.0


class Clustering(NamedTuple):
    """`loss`: scalar in -1..1; `weights`: (B, K, h, w) of each cluster at each place, summing to 1."""

    loss: Tensor
    weights: Tensor


class ClusterProbe(nn.Module):
    """Centroids on the sphere.

    Args:
        width: D of the codes.
        clusters: K, extra ones included.
    """

    def __init__(self, width: int, clusters: int) -> None:
        super().__init__()
        self.clusters = nn.Parameter(torch.randn(clusters, width))

    def cosines(self, codes: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, K, h, w) cosine with every centroid."""
        weight = F.normalize(self.clusters, dim=1)
        return F.conv2d(F.normalize(codes, dim=1), weight[:, :, None, None])

    def forward(self, codes: Tensor, alpha: float | None = None) -> Clustering:
        """Minus the mean cosine with the assigned centroid.

        Args:
            codes: (B, D, h, w).
            alpha: assign by softmax(alpha · cosine); None: to the nearest alone, as in training.
        """
        cosines = self.cosines(codes)
        if alpha is None:
            weights = F.one_hot(cosines.argmax(1), cosines.shape[1]).movedim(-1, 1).to(cosines)
        else:
            weights = (alpha * cosines).softmax(1)
        return Clustering(-(weights * cosines).sum(1).mean(), weights)

    def log_probabilities(self, codes: Tensor, alpha: float = TEST_ALPHA) -> Tensor:
        """(B, D, h, w) -> (B, K, h, w) log softmax of alpha · cosine."""
        return (alpha * self.cosines(codes)).log_softmax(1)


def linear_probe_loss(logits: Tensor, target: Tensor, *, reference: bool = False) -> Tensor:
    """Cross-entropy over labelled pixels, at the size of the labels.

    Args:
        logits: (B, K, h, w) at the resolution of codes; upsampled bilinearly here.
        target: (B, H, W) int64; whatever lies outside 0..K-1 is ignored.
        reference: NaN where nothing is labelled, as the original; else 0.
    """
    logits = F.interpolate(logits, size=target.shape[1:], mode="bilinear", align_corners=False)
    labelled = (target >= 0) & (target < logits.shape[1])
    truth = torch.where(labelled, target, -1)
    total = F.cross_entropy(logits, truth, ignore_index=-1, reduction="sum")
    count = labelled.sum()
    return total / (count if reference else count.clamp_min(1))
