from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.confusion import ConfusionMatrix, harmonic_mean

GOLDEN = Path(__file__).parent.parent / "golden" / "lseg"


def random_pair(seed: int, classes: int, shape: tuple[int, ...] = (40, 50)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = rng.integers(-1, classes, shape)
    pred = np.where(rng.random(shape) < 0.6, np.maximum(target, 0), rng.integers(0, classes, shape))
    return pred, target


def test_segmentation_golden() -> None:
    golden = np.load(GOLDEN / "segmentation_metric.npz")
    matrix = ConfusionMatrix(6).update(golden["logits"].argmax(axis=1), golden["target"])
    inter = np.diagonal(matrix.counts)
    union = matrix.counts.sum(0) + matrix.counts.sum(1) - inter
    assert inter.tolist() == golden["inter"].tolist()
    assert union.tolist() == golden["union"].tolist()
    assert inter.sum() == golden["pix_correct"]
    assert matrix.counts.sum() == golden["pix_labeled"]
    metrics = matrix.metrics()
    assert metrics["pixel_accuracy"] == pytest.approx(float(golden["pixacc"]), abs=1e-12)
    assert metrics["miou_all"] == pytest.approx(float(golden["miou"]), abs=1e-12)
    assert metrics["miou"] == pytest.approx(float(golden["miou"]) * 6 / 5)  # class 4 is absent in the truth


@pytest.mark.parametrize("classes", [2, 7, 300])
def test_agrees_with_torchmetrics(classes: int) -> None:
    pred, target = random_pair(classes, classes)
    matrix = ConfusionMatrix(classes).update(pred, target)
    p, t = torch.from_numpy(pred), torch.from_numpy(target)
    theirs = MulticlassConfusionMatrix(classes, ignore_index=-1)(p, t)
    assert np.array_equal(matrix.counts, theirs.numpy())
    jaccard = MulticlassJaccardIndex(classes, ignore_index=-1, average=None)(p, t)
    np.testing.assert_allclose(np.nan_to_num(matrix.iou()), jaccard.numpy(), atol=1e-6)
    metrics = matrix.metrics()
    mean_recall = MulticlassAccuracy(classes, ignore_index=-1, average="macro")(p, t)
    assert metrics["mean_accuracy"] == pytest.approx(float(mean_recall), abs=1e-6)
    weighted = MulticlassJaccardIndex(classes, ignore_index=-1, average="weighted")(p, t)
    assert metrics["fwiou"] == pytest.approx(float(weighted), abs=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_ignore_and_dtypes(dtype: type) -> None:
    ignore = int(min(np.iinfo(dtype).max, 65535))
    target = np.array([[0, 1], [ignore, 1]], dtype)
    matrix = ConfusionMatrix(2).update(np.array([[0, 0], [1, 1]], dtype), target, ignore)
    assert matrix.counts.tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("target", "pred", "error", "words"),
    [
        ([3], [0], UserError, "class id 3 is outside the 3 labels"),
        ([-2], [0], UserError, "class id -2"),
        ([0], [3], ValueError, "predicted label 3"),
        ([0], [-1], ValueError, "predicted label -1"),
        ([0, 1], [0], ValueError, "shape"),
    ],
)
def test_what_does_not_fit_is_refused(target: list, pred: list, error: type[Exception], words: str) -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(error, match=words):
        matrix.update(np.array(pred), np.array(target))
    assert matrix.counts.sum() == 0


def test_an_out_of_range_prediction_where_the_truth_is_ignored_does_no_harm() -> None:
    assert ConfusionMatrix(2).update(np.array([9]), np.array([-1])).counts.sum() == 0


def test_merge_is_exact_and_leaves_its_parts_alone() -> None:
    parts = [ConfusionMatrix(5).update(*random_pair(seed, 5)) for seed in range(3)]
    before = [part.counts.copy() for part in parts]
    left = parts[0].merge(parts[1]).merge(parts[2])
    right = parts[0].merge(parts[1].merge(parts[2]))
    assert np.array_equal(left.counts, right.counts)
    assert np.array_equal(left.counts, sum(before))
    assert all(np.array_equal(part.counts, old) for part, old in zip(parts, before, strict=True))
    with pytest.raises(ValueError, match="merge"):
        parts[0].merge(ConfusionMatrix(4))


def test_classes_that_count() -> None:
    # class 2 is predicted but absent in the truth, class 3 is in neither
    matrix = ConfusionMatrix(4).update(np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1]))
    iou = matrix.iou()
    assert iou[:3].tolist() == [1.0, 0.5, 0.0]
    assert math.isnan(iou[3])
    metrics = matrix.metrics()
    assert metrics["miou"] == 0.75
    assert metrics["miou_all"] == 0.375
    assert metrics["pixel_accuracy"] == 0.75
    assert metrics["mean_accuracy"] == 0.75
    assert metrics["fwiou"] == 0.75
    assert "unseen_miou" not in metrics


def test_seen_unseen_harmonic() -> None:
    matrix = ConfusionMatrix(4).update(np.array([0, 0, 1, 0]), np.array([0, 0, 1, 1]))
    metrics = matrix.metrics(unseen=[1, 3])
    assert metrics["seen_miou"] == pytest.approx(2 / 3)
    assert metrics["unseen_miou"] == pytest.approx(0.5)
    assert metrics["harmonic_miou"] == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert math.isnan(matrix.metrics(unseen=[3])["harmonic_miou"])  # no held-out class occurs: nothing measured


def test_nothing_measured_is_nan_not_zero() -> None:
    assert all(math.isnan(value) for value in ConfusionMatrix(3).metrics(unseen=[1]).values())


def test_harmonic_mean_of_zeros() -> None:
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(0.5, 0.0) == 0.0
