"""Values fitted on cached scores are those of running the network again."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_ray.data import open_dataset
from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.evaluate import default_spaces
from ovseg_ray.methods.export import save_model
from ovseg_ray.methods.lseg import LSeg, LSegConfig
from ovseg_ray.segmenter import Segmenter
from ovseg_ray.tuning.calibrate import calibrate
from ovseg_ray.tuning.fit import CachedScores, cache_scores, calibration, fit_temperature, thresholds

LABELS = ("red", "green", "blue", "yellow")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    from colour_training import write_colours

    return open_dataset(write_colours(tmp_path_factory.mktemp("fit") / "colours", val=5, size=32), "val")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An LSeg that has learned nothing, on words of its own."""
    root = tmp_path_factory.mktemp("lseg")
    vectors = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    np.savez(root / "table.npz", names=np.array(LABELS), embeddings=vectors)
    torch.manual_seed(0)
    method = LSeg(
        LSegConfig.model_validate(
            {
                "text": f"table:{root / 'table.npz'}", "encoder": {"name": "small", "finest_stride": 2}, "width": 16,
                "detail_width": 16, "temperature": 0.01,
            }
        )
    )  # fmt: skip
    from ovseg_ray.vocabulary import Vocabulary

    method.prepare([Vocabulary.of(LABELS)])
    save_model(method.eval(), root / "model", vocabularies=method.label_sets, provenance={})
    return root / "model"


def random_scores(pixels: int = 4000, scale: float = 1.0) -> CachedScores:
    """Scores whose softmax is the truth's own distribution, times `scale`."""
    generator = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(pixels, 5, generator=generator)
    truth = torch.multinomial(scores.softmax(1), 1, generator=generator)[:, 0]
    return CachedScores.of(scale * scores, truth)


@pytest.mark.parametrize("scale", [0.5, 1.0, 6.0])
def test_the_temperature_undoes_what_was_done_to_the_scores(scale: float) -> None:
    cached = random_scores(scale=scale)
    factor = fit_temperature(cached)
    assert factor == pytest.approx(scale, rel=0.08)
    after = calibration(cached, factor)
    assert after.nll <= calibration(cached).nll
    assert after.ece < 0.02
    assert after.accuracy == calibration(cached).accuracy  # no label changes


def test_calibration_by_hand() -> None:
    scores = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)], [math.log(9), 0.0], [0.0, 0.0]])
    found = calibration(CachedScores.of(scores, torch.tensor([1, 0, 0, 0])))
    assert found.nll == pytest.approx(-(math.log(0.75) + math.log(0.25) + math.log(0.9) + math.log(0.5)) / 4)
    assert found.accuracy == 0.75
    assert found.ece == pytest.approx((abs(1 - 1.5) + 0.1 + 0.5) / 4)


def test_thresholds_by_hand() -> None:
    scores = torch.log(torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]]))
    cached = CachedScores.of(scores, torch.tensor([0, 1, 1, 1]))
    last, *found = thresholds(cached, [0.95, 0.0, 0.6, 0.75])  # in any order
    assert [(t.kept, t.accuracy) for t in found] == [(1.0, 0.75), (0.75, pytest.approx(2 / 3)), (0.5, 0.5)]
    assert last.kept == 0.0
    assert math.isnan(last.accuracy)


def test_cached_values_are_those_of_the_network_run_again(model: Path, dataset: DataSet) -> None:
    segmenter = Segmenter.load(model, "cpu")
    space, rows = default_spaces(segmenter, dataset)[0], list(range(len(dataset)))
    cached = cache_scores(segmenter.method, dataset, rows, space)
    for factor in (0.3, 1.0, 5.0):
        again = Segmenter.load(model, "cpu").method
        again.scale_temperature(factor)
        found, expected = calibration(cached, factor), calibration(cache_scores(again, dataset, rows, space))
        assert found.nll == pytest.approx(expected.nll, rel=1e-5)
        assert found.ece == pytest.approx(expected.ece, abs=1e-4)
        assert found.accuracy == pytest.approx(expected.accuracy, abs=1e-3)
    few = cache_scores(segmenter.method, dataset, rows, space, pixels=50)
    assert len(few.truth) == 50


def test_a_calibrated_model_gives_the_same_labels(model: Path, dataset: DataSet, tmp_path: Path) -> None:
    found = calibrate(model, dataset, tmp_path / "out")
    assert found["after"]["nll"] < found["before"]["nll"]
    assert found["temperature"] == pytest.approx(0.01 * found["factor"])
    image = Image.open(dataset.row(0)["image_path"])
    results = [Segmenter.load(path, "cpu").segment(image, list(LABELS)) for path in (model, tmp_path / "out")]
    assert (results[0].label_map == results[1].label_map).mean() > 0.999
    assert not np.allclose(results[0].confidence, results[1].confidence)
    with pytest.raises(UserError, match="is there"):
        calibrate(model, dataset, tmp_path / "out")


def test_a_model_whose_scores_are_worked_on_afterwards_is_refused() -> None:
    method = LSeg(LSegConfig.model_validate({"encoder": {"name": "small"}, "head_block": {"kind": "depthwise"}}))
    with pytest.raises(UserError, match=r"model.head_block"):
        method.scale_temperature(2.0)
