"""Which of several models is better, told without labels: do clusters say the same of places that look the same?

Of an image and its neighbour, places are paired that are each other's nearest by the cosine of their features. What is
scored is the mutual information of both places' clusters, as a share of the most that K clusters could have: clusters
that change at random lower it, and so do clusters that lump everything together. Unlike a loss it does not depend on
shifts, weights or widths, so that it compares any runs on the same features with the same K.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ovseg_ray.methods.stego.correspondence import correlation, normalised


def pair_counts(features: tuple[Tensor, Tensor], clusters: tuple[Tensor, Tensor], count: int) -> Tensor:
    """How often paired places have each pair of clusters.

    Args:
        features: (B, C, h, w) of images and of a neighbour of each.
        clusters: (B, h, w) int64 of both.
        count: K.

    Returns:
        (K, K) int64.
    """
    cosines = correlation(normalised(features[0]), normalised(features[1])).flatten(1, 2).flatten(2)
    there, back = cosines.argmax(2), cosines.argmax(1)
    mutual = back.gather(1, there) == torch.arange(cosines.shape[1], device=there.device)
    here, near = clusters[0].flatten(1)[mutual], clusters[1].flatten(1).gather(1, there)[mutual]
    return torch.bincount(here * count + near, minlength=count * count).view(count, count)


def agreement(counts: Tensor) -> float:
    """Mutual information of a (K, K) table of counts over log K, in 0..1; 0 for an empty one."""
    if not counts.sum():
        return 0.0
    joint = counts.double() / counts.sum()
    independent = joint.sum(1, keepdim=True) * joint.sum(0)
    seen = joint > 0
    return float((joint[seen] * (joint[seen] / independent[seen]).log()).sum()) / math.log(len(counts))


def matched_miou(counts: np.ndarray) -> float:
    """mIoU of (K, classes) counts under the best one-to-one matching: the original's criterion, which reads labels."""
    rows, columns = linear_sum_assignment(counts, maximize=True)
    right = counts[rows, columns]
    union = counts.sum(1)[rows] + counts.sum(0)[columns] - right
    return float(np.mean(right[union > 0] / union[union > 0])) if (union > 0).any() else math.nan
