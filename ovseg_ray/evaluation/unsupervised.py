"""Scoring of a model that tells clusters apart without names: matched to classes once, on the whole set.

The protocol of Hamilton et al. 2022 (section 4 and appendix): each image a square of one size (shorter side resized,
centre cut out), its labels likewise; clusters and linear probe at the size of the labels, each map refined by a CRF
where asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.data.sample import DecodedSample
from ovseg_ray.data.squares import SquareConfig, square
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.clusters import ClusterCounts
from ovseg_ray.methods.base import Encoding, Segmentation
from ovseg_ray.methods.stego.crf import CrfConfig, DenseCrf

BATCH = 8
IGNORE = -1


@runtime_checkable
class ClusterModel(Protocol):
    """What is scored: `ovseg_ray.methods.stego.Stego`."""

    def preprocess(self, image: np.ndarray) -> Tensor: ...

    def crf_picture(self, picture: np.ndarray) -> np.ndarray: ...

    def encode(self, images: Tensor) -> Encoding: ...

    def cluster_scores(self, encoding: Encoding, size: tuple[int, int]) -> Tensor: ...

    def linear_scores(self, encoding: Encoding, size: tuple[int, int]) -> Tensor: ...

    def segment(self, encoding: Encoding, text: Tensor, size: tuple[int, int]) -> Segmentation: ...


@dataclass(frozen=True)
class UnsupervisedCounts:
    """Sums over images, that may be merged in any order.

    Attributes:
        clusters: of clusters.
        linear: of the linear probe; None without one.
        named: of labels by the names of clusters; None where they have none.
    """

    clusters: ClusterCounts
    linear: ClusterCounts | None
    named: ClusterCounts | None = None

    def merge(self, other: UnsupervisedCounts) -> UnsupervisedCounts:
        """The sum of both."""
        linear = self.linear.merge(other.linear) if self.linear is not None and other.linear is not None else None
        named = self.named.merge(other.named) if self.named is not None and other.named is not None else None
        return replace(self, clusters=self.clusters.merge(other.clusters), linear=linear, named=named)


def count_clusters(
    model: ClusterModel,
    dataset: DataSet,
    rows: Sequence[int],
    *,
    clusters: int,
    linear: bool,
    squares: SquareConfig,
    text: Tensor | None = None,
    crf: CrfConfig | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> UnsupervisedCounts:
    """Count predictions against labels over rows of a data set.

    Args:
        model: in eval mode, on `device`.
        dataset: with masks.
        rows: of its index.
        clusters: how many the model has.
        linear: whether it has a linear probe for the classes of the data set.
        squares: size and resampling of the squares; crops take no part.
        text: (classes, D) embeddings of the classes, for a model whose clusters have names; None: it has none.
        crf: refine each map of clusters and of the linear probe; None: not.
        device: of torch.
        progress: told the number of images done.

    Raises:
        UserError: an unreadable image, no masks, or fewer clusters than classes.
    """
    classes = len(dataset.require_masks())
    if clusters < classes:
        raise UserError(
            f"{dataset.path}: {classes} classes, the model has {clusters} clusters; train with model.clusters={classes}"
        )
    counts = UnsupervisedCounts(
        ClusterCounts(classes, clusters - classes),
        ClusterCounts(classes) if linear else None,
        ClusterCounts(classes) if text is not None else None,
    )
    for start in range(0, len(rows), BATCH):
        samples = [dataset.decoded(int(row)) for row in rows[start : start + BATCH]]
        pictures = [square(sample.image, squares.size, squares.resampling) for sample in samples]
        targets = [square(_mask(sample), squares.size, "nearest") for sample in samples]
        with torch.inference_mode():
            encoding = model.encode(torch.stack([model.preprocess(picture) for picture in pictures]).to(device))
            size = (squares.size, squares.size)
            scored = [(model.cluster_scores(encoding, size), counts.clusters)]
            if counts.linear is not None:
                scored.append((model.linear_scores(encoding, size), counts.linear))
            labelled = None if text is None else model.segment(encoding, text.to(device), size).label_map.cpu().numpy()
        kernels = [DenseCrf(model.crf_picture(picture), crf) for picture in pictures] if crf is not None else []
        truths = [_truth(sample, target) for sample, target in zip(samples, targets, strict=True)]
        for scores, counter in scored:
            found = scores.argmax(1).cpu().numpy()
            for image, truth in enumerate(truths):
                chosen = found[image]
                if kernels:
                    chosen = kernels[image].marginals(scores[image].exp().cpu().numpy()).argmax(0)
                counter.update(chosen, truth)
        if counts.named is not None and labelled is not None:
            for chosen, truth in zip(labelled, truths, strict=True):
                counts.named.update(chosen, truth)
        if progress is not None:
            progress(start + len(samples))
    return counts


def _mask(sample: DecodedSample) -> np.ndarray:
    if sample.mask is None:
        raise UserError(f"image '{sample.image_id}': has no mask; clusters are scored on images with masks")
    return sample.mask


def _truth(sample: DecodedSample, target: np.ndarray) -> np.ndarray:
    truth = target.astype(np.int64)
    truth[target == sample.ignore_index] = IGNORE
    return truth
