"""Zero-shot episodes (PASCAL-5i, COCO-20i, FSS-1000): binary segmentation of one held-out class an image."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ovseg_ray.evaluation.confusion import ConfusionMatrix

_IGNORE = 255


class EpisodeScores:
    """Background and foreground counts of every class, as HSNet accumulates them.

    Args:
        class_ids: the held-out classes; one without an episode counts as 0.
    """

    def __init__(self, class_ids: Iterable[int]) -> None:
        self.matrices = {int(class_id): ConfusionMatrix(2) for class_id in class_ids}

    def update(
        self, pred: np.ndarray, target: np.ndarray, class_id: int, ignore: np.ndarray | None = None
    ) -> EpisodeScores:
        """Count one episode.

        Args:
            pred: (H, W), 1 where the class was found.
            target: (H, W), 1 where the class is.
            class_id: one of the held-out classes.
            ignore: (H, W), true where the truth is unknown.

        Returns:
            self.
        """
        truth = target.astype(np.int64)
        if ignore is not None:
            truth[ignore.astype(bool)] = _IGNORE
        self.matrices[class_id].update(pred, truth, _IGNORE)
        return self

    def merge(self, other: EpisodeScores) -> EpisodeScores:
        """The sum of both over the same classes."""
        merged = EpisodeScores(self.matrices)
        merged.matrices = {c: matrix.merge(other.matrices[c]) for c, matrix in self.matrices.items()}
        return merged

    def metrics(self) -> dict[str, float]:
        """`miou`: mean foreground IoU over classes; `fb_iou`: mean of background's and foreground's IoU over all."""
        total = np.sum([matrix.counts for matrix in self.matrices.values()], axis=0)
        foreground = [float(np.nan_to_num(matrix.iou()[1])) for matrix in self.matrices.values()]
        return {"miou": float(np.mean(foreground)), "fb_iou": float(np.nanmean(ConfusionMatrix(2, total).iou()))}
