from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ovseg_ray.evaluation.clusters import ClusterCounts

GOLDEN = Path(__file__).parents[1] / "golden/stego"


@pytest.mark.parametrize("name", ["metrics_hungarian", "metrics_hungarian_absent", "metrics_linear"])
def test_scores_of_the_original(name: str) -> None:
    golden = np.load(GOLDEN / f"{name}.npz")
    for reference in (False, True):
        total = ClusterCounts(int(golden["n_classes"]), reference=True)
        for preds, targets in zip(golden["preds"], golden["targets"], strict=True):
            part = ClusterCounts(int(golden["n_classes"]), reference=reference or preds.max() >= golden["n_classes"])
            total = total.merge(part.update(preds, targets))
        assert np.array_equal(total.counts, golden["stats"])
        score = total.matched() if golden["hungarian"] else total.unmatched()
        assert np.array_equal(score.histogram, golden["histogram"])
        np.testing.assert_allclose(score.iou, golden["iou"], rtol=1e-6)
        assert 100 * score.miou == pytest.approx(float(golden["mIoU_percent"]), rel=1e-6)
        assert 100 * score.accuracy == pytest.approx(float(golden["Accuracy_percent"]), rel=1e-6)
        if golden["hungarian"]:
            assert np.array_equal(score.classes[golden["assign_cluster"]], golden["assign_class"])
            valid = golden["preds"][0] < golden["n_classes"]
            assert np.array_equal(score.classes[golden["preds"][0][valid]], golden["mapped_preds0"][valid])


def test_extra_clusters_count() -> None:
    target = np.array([0] * 10 + [1] * 10 + [-1])
    clusters = np.array([2] * 9 + [0] + [1] * 8 + [0] * 2 + [0])
    score = ClusterCounts(2, extra=1).update(clusters, target).matched()
    assert score.classes.tolist() == [-1, 1, 0]
    assert score.accuracy == pytest.approx(17 / 20)
    assert score.iou.tolist() == pytest.approx([0.9, 0.8])
    dropped = ClusterCounts(2, extra=1, reference=True).update(clusters, target)
    assert dropped.counts[2].sum() == 0
    found = dropped.matched()  # the original's arrays have a row for them all the same
    assert found.iou.shape == (3,)
    assert np.isnan(found.iou[2])
    assert found.miou == pytest.approx(found.iou[:2].mean())


def test_absent_classes_are_skipped_and_invented_ones_count_zero() -> None:
    counts = np.array([[5, 0, 0], [0, 0, 0], [2, 0, 0]])
    score = ClusterCounts(3, counts=counts).matched()
    assert score.iou[0] == pytest.approx(5 / 7)
    assert sorted(np.nan_to_num(score.iou[1:], nan=-1)) == [-1, 0]
    assert score.miou == pytest.approx(5 / 14)


def test_clusters_out_of_range_are_a_fault() -> None:
    with pytest.raises(ValueError, match="outside"):
        ClusterCounts(2).update(np.array([2]), np.array([0]))
