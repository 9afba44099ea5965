"""Scoring of clusters, which have no names: counts over a whole data set, matched to classes once at the end.

The matching is the one-to-one assignment of most pixels (Kuhn 1955), on the counts of the whole set as in Ji et al.
(ICCV 2019): an upper bound on what any naming of the clusters could reach.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

UNMATCHED = -1


@dataclass(frozen=True)
class ClusterScore:
    """Clusters named by their matched classes.

    Attributes:
        classes: (K + E,) int64 class of each cluster, -1 for the E that are left over.
        histogram: (K, K) int64 pixels by predicted and true class; (K + 1, K + 1) with extra clusters, whose pixels
            are pooled in the last row.
        iou: (K,) float64; NaN for a class in neither prediction nor truth, 0 for one that is only predicted. Where the
            original is followed, extra clusters have an entry of their own at the end: NaN, since it drops them.
        miou: mean of those that are not NaN, in 0..1.
        accuracy: share of counted pixels that are right, in 0..1.
    """

    classes: np.ndarray
    histogram: np.ndarray
    iou: np.ndarray
    miou: float
    accuracy: float


class ClusterCounts:
    """Pixel counts, cluster (rows) against class (columns); sums of integers, so parts may be merged in any order.

    Args:
        classes: K.
        extra: clusters beyond K.
        reference: drop predictions from K on, as the original, which makes its extra clusters useless.
        counts: (K + E, K) to start from.
    """

    def __init__(
        self, classes: int, extra: int = 0, *, reference: bool = False, counts: np.ndarray | None = None
    ) -> None:
        shape = (classes + extra, classes)
        self.counts = np.zeros(shape, np.int64) if counts is None else np.array(counts, np.int64)
        if self.counts.shape != shape:
            raise ValueError(f"counts have shape {self.counts.shape}, expected {shape}")
        self._reference = reference

    @property
    def num_classes(self) -> int:
        """K."""
        return self.counts.shape[1]

    def update(self, clusters: np.ndarray, target: np.ndarray) -> ClusterCounts:
        """Count the pixels of an image or batch.

        Args:
            clusters: cluster of each pixel, 0..K+E-1, any integer dtype and shape.
            target: class of each pixel, same shape; whatever lies outside 0..K-1 is left out.

        Returns:
            self.
        """
        rows, columns = self.counts.shape
        known = columns if self._reference else rows
        if not self._reference and clusters.size and (clusters.min() < 0 or clusters.max() >= rows):
            raise ValueError(f"clusters {clusters.min()}..{clusters.max()} outside 0..{rows - 1}")
        counted = (target >= 0) & (target < columns) & (clusters >= 0) & (clusters < known)
        cells = clusters[counted].astype(np.int64) * columns + target[counted].astype(np.int64)
        self.counts += np.bincount(cells, minlength=self.counts.size).reshape(self.counts.shape)
        return self

    def merge(self, other: ClusterCounts) -> ClusterCounts:
        """The sum of both, as a new object."""
        extra = len(self.counts) - self.num_classes
        return ClusterCounts(self.num_classes, extra, reference=self._reference, counts=self.counts + other.counts)

    def matched(self) -> ClusterScore:
        """Score under the assignment of clusters to classes that gets most pixels right."""
        clusters, classes = linear_sum_assignment(self.counts, maximize=True)
        return self._score(clusters, classes)

    def unmatched(self) -> ClusterScore:
        """Score with cluster k standing for class k: what a classifier such as the linear probe is scored by."""
        own = np.arange(self.num_classes)
        return self._score(own, own)

    def _score(self, clusters: np.ndarray, classes: np.ndarray) -> ClusterScore:
        size = self.num_classes
        named = np.full(len(self.counts), UNMATCHED, np.int64)
        named[clusters] = classes
        histogram = np.zeros((size, size), np.int64)
        histogram[classes] = self.counts[clusters]
        if len(self.counts) > size:
            pooled = self.counts[named == UNMATCHED].sum(0)
            histogram = np.pad(np.vstack([histogram, pooled]), ((0, 0), (0, 1)))
        scored = len(histogram) if self._reference else size
        right = np.diagonal(histogram)[:scored]
        union = histogram.sum(0)[:scored] + histogram.sum(1)[:scored] - right
        with np.errstate(invalid="ignore"):
            iou = np.where(union > 0, right / np.maximum(union, 1), np.nan)
        total = int(histogram.sum())
        return ClusterScore(
            named,
            histogram,
            iou,
            float(np.nanmean(iou)) if (union > 0).any() else float("nan"),
            right.sum() / total if total else float("nan"),
        )
