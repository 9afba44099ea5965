"""The confusion matrix and every number that is made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ovseg_ray.errors import UserError

IGNORE = -1


class ConfusionMatrix:
    """Pixel counts, truth (rows) against prediction (columns).

    A sum of integers: merging is associative and exact, so the numbers do not depend on how the images were
    dealt out to workers. Truth and prediction index the same label list; a label that stands for no class of
    the truth (a distractor) has an empty row, and pixels predicted as it are errors of the class they belong to.

    Attributes:
        counts: (C, C) int64.

    Example:
        >>> ConfusionMatrix(2).update(np.array([0, 1, 1]), np.array([0, 1, 0])).counts
        array([[1, 1],
               [0, 1]])
    """

    def __init__(self, num_classes: int, counts: np.ndarray | None = None) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}, must be at least 1")
        shape = (num_classes, num_classes)
        self.counts = np.zeros(shape, np.int64) if counts is None else np.array(counts, np.int64)
        if self.counts.shape != shape:
            raise ValueError(f"counts have shape {self.counts.shape}, expected {shape}")

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.counts)

    def update(self, pred: np.ndarray, target: np.ndarray, ignore_index: int = IGNORE) -> ConfusionMatrix:
        """Count the pixels of an image or batch.

        Args:
            pred: label indices in 0..C-1, any integer dtype and shape.
            target: class indices in 0..C-1, or `ignore_index`; shape of `pred`.
            ignore_index: truth that is left out, whatever was predicted there.

        Returns:
            self.

        Raises:
            UserError: a target outside 0..C-1 that is not `ignore_index`.
            ValueError: shapes differ, or a prediction lies outside 0..C-1.
        """
        if pred.shape != target.shape:
            raise ValueError(f"prediction has shape {pred.shape}, truth {target.shape}")
        valid = target != ignore_index
        truth, found = target[valid].astype(np.int64), pred[valid].astype(np.int64)
        if truth.size == 0:
            return self
        for values, error, what in ((truth, UserError, "class id"), (found, ValueError, "predicted label")):
            if values.min() < 0 or values.max() >= self.num_classes:
                wrong = values.min() if values.min() < 0 else values.max()
                raise error(f"{what} {wrong} is outside the {self.num_classes} labels (0..{self.num_classes - 1})")
        cells = truth * self.num_classes + found
        flat = self.counts.reshape(-1)
        if flat.size <= 4 * cells.size:
            flat += np.bincount(cells, minlength=flat.size)
        else:  # thousands of labels: a dense histogram per image would cost more than the image
            index, number = np.unique(cells, return_counts=True)
            flat[index] += number
        return self

    def merge(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """The sum of both, as a new matrix; neither is changed."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"cannot merge {self.num_classes} classes with {other.num_classes}")
        return ConfusionMatrix(self.num_classes, self.counts + other.counts)

    def iou(self) -> np.ndarray:
        """(C,) float64 intersection over union; NaN for a class in neither truth nor prediction."""
        inter, union = self._intersection_union()
        with np.errstate(invalid="ignore"):
            return np.where(union > 0, inter / np.maximum(union, 1), np.nan)

    def metrics(self, unseen: Sequence[int] = ()) -> dict[str, float]:
        """Every headline number, as fractions in 0..1; NaN where nothing was measured.

        Means run over the classes that occur in the truth. A class that was predicted but occurs nowhere in the
        truth has no recall to speak of; its false pixels already count against the classes they belong to.

        Args:
            unseen: indices of held-out classes; all others are seen.

        Returns:
            `miou`; `miou_all`: mean over all C with absent classes as 0 (the convention of PyTorch-Encoding and
            LSeg's fixed-label tables); `pixel_accuracy`; `mean_accuracy`: mean recall; `fwiou`: IoU weighted by
            the class's share of the truth; and where `unseen` is given `seen_miou`, `unseen_miou` and
            `harmonic_miou`.
        """
        inter, union = self._intersection_union()
        truth = self.counts.sum(axis=1)
        present, total = truth > 0, int(truth.sum())
        iou = inter / np.maximum(union, 1)
        result = {
            "miou": _mean(iou[present]),
            "miou_all": float(iou.mean()) if total else math.nan,
            "pixel_accuracy": float(inter.sum() / total) if total else math.nan,
            "mean_accuracy": _mean(inter[present] / truth[present]),
            "fwiou": float((truth * iou).sum() / total) if total else math.nan,
        }
        if len(unseen):
            held_out = np.zeros(self.num_classes, bool)
            held_out[list(unseen)] = True
            seen_miou, unseen_miou = _mean(iou[present & ~held_out]), _mean(iou[present & held_out])
            result |= {
                "seen_miou": seen_miou,
                "unseen_miou": unseen_miou,
                "harmonic_miou": harmonic_mean(seen_miou, unseen_miou),
            }
        return result

    def _intersection_union(self) -> tuple[np.ndarray, np.ndarray]:
        inter = np.diagonal(self.counts)
        return inter, self.counts.sum(axis=0) + self.counts.sum(axis=1) - inter


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b), 0 where both are 0; NaN where one is NaN."""
    return 0.0 if a + b == 0 else 2 * a * b / (a + b)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan
