"""Label maps of named clusters: clusters vote for labels with their vectors in a text space, streamed over labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ray.methods.base import Segmentation
from ovseg_ray.methods.running import RunningArgmax

LABELS_AT_ONCE = 128
PIXELS_AT_ONCE = 1 << 16


def label_weights(names: Tensor, text: Tensor, temperature: float) -> Tensor:
    """(N, K) score of each label where a pixel is wholly of a cluster.

    Args:
        names: (K, D) vectors of clusters in the text space, any length but not zero where a cluster is named.
        text: (N, D) label embeddings.
        temperature: of the cosine.
    """
    return F.normalize(text.float(), dim=1) @ F.normalize(names.float(), dim=1).T / temperature


def upsampled(shares: Tensor, inner: tuple[int, int], padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Cluster shares at pixels.

    Args:
        shares: (B, K, h, w) over the padded input.
        inner: (H, W) of the unpadded input.
        padded: (H', W').
        size: wanted.

    Returns:
        (B, K, *size) float32; bilinear, corners not aligned, padding cut off.
    """
    if inner == padded:
        return F.interpolate(shares, size, mode="bilinear", align_corners=False)
    axes = []
    for length, out, full, places in zip(inner, size, padded, shares.shape[2:], strict=True):
        # centre of each output pixel in the input, as -1..1 over the padded extent
        centre = (torch.arange(out, device=shares.device, dtype=torch.float32) + 0.5) * (length / out)
        half = 1 - 1 / places  # the outermost centres: beyond them the border repeats
        axes.append((2 * centre / full - 1).clamp(-half, half))
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1).expand(len(shares), -1, -1, -1)
    return F.grid_sample(shares, grid, mode="bilinear", padding_mode="border", align_corners=False)


def segment_shares(shares: Tensor, weights: Tensor) -> Segmentation:
    """The best label of every pixel and its softmax probability.

    Args:
        shares: (B, K, H, W) cluster shares of pixels.
        weights: (N, K) of `label_weights`.

    Returns:
        Lowest index at ties; labels with equal rows tie exactly.
    """
    distinct, group, counts = torch.unique(weights, dim=0, return_inverse=True, return_counts=True)
    first = torch.full_like(counts, len(weights))
    first = first.scatter_reduce(0, group, torch.arange(len(weights), device=weights.device), "amin")
    order = first.argsort()
    distinct, first, counts = distinct[order], first[order], counts[order]
    flat = shares.movedim(1, -1).flatten(0, 2)
    winners, confidences = [], []
    for part in flat.split(PIXELS_AT_ONCE):
        running = RunningArgmax()
        for start in range(0, len(distinct), LABELS_AT_ONCE):
            stop = start + LABELS_AT_ONCE
            scores = part @ distinct[start:stop].T
            top, index = scores.max(1)
            total = torch.exp(scores - top[:, None]) @ counts[start:stop].to(scores)
            running.add(first[start + index], top, total)
        winner, confidence = running.result()
        winners.append(winner)
        confidences.append(confidence)
    shape = (shares.shape[0], *shares.shape[2:])
    return Segmentation(torch.cat(winners).view(shape), torch.cat(confidences).view(shape))
