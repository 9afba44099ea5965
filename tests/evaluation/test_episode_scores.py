from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ovseg_ray.evaluation.episodes import EpisodeScores

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "lseg" / "zeroshot_metric.npz")


def accumulate(episodes: range) -> EpisodeScores:
    scores = EpisodeScores(GOLDEN["class_ids_interest"])
    for i in episodes:
        pred, truth, ignore = (GOLDEN[key][i, 0] for key in ("pred", "gt", "ignore"))
        scores.update(pred, truth, int(GOLDEN["class_id"][i]), ignore)
    return scores


def test_zeroshot_golden() -> None:
    metrics = accumulate(range(12)).metrics()
    assert 100 * metrics["miou"] == pytest.approx(float(GOLDEN["miou"]), abs=1e-4)
    assert 100 * metrics["fb_iou"] == pytest.approx(float(GOLDEN["fb_iou"]), abs=1e-4)


def test_areas_of_an_episode() -> None:
    for i in range(12):
        counts = accumulate(range(i, i + 1)).matrices[int(GOLDEN["class_id"][i])].counts
        inter = np.diagonal(counts)
        assert inter.tolist() == GOLDEN["area_inter"][i, :, 0].tolist()
        assert (counts.sum(0) + counts.sum(1) - inter).tolist() == GOLDEN["area_union"][i, :, 0].tolist()


def test_merge_is_the_sum() -> None:
    assert accumulate(range(7)).merge(accumulate(range(7, 12))).metrics() == accumulate(range(12)).metrics()
