"""Numbers of clusters and weights of the CRF fitted on cached codes: those of running everything again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from masked_folder import masked_folder

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.evaluate_clusters import evaluation_squares
from ovseg_ray.evaluation.unsupervised import count_clusters
from ovseg_ray.methods.export import load_model, save_model
from ovseg_ray.methods.stego import Stego, StegoConfig
from ovseg_ray.methods.stego.crf import CrfConfig
from ovseg_ray.tuning.calibrate import calibrate
from ovseg_ray.tuning.fit_clusters import WEIGHTS, cache_codes, try_clusters, try_crf, weights_around

COLOURS = np.array([[220, 30, 30], [30, 200, 40], [40, 40, 220], [220, 220, 30]], np.uint8)
CLASSES = ("red", "green", "blue", "yellow")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Broad stripes of four colours with some noise; the top rows are ignored."""
    rng = np.random.default_rng(0)

    def stripes() -> tuple[np.ndarray, np.ndarray]:
        colour = np.repeat(rng.permutation(4), 16)[None].repeat(48, 0).astype(np.uint8)
        return np.clip(COLOURS[colour] + rng.normal(0, 30, (48, 64, 3)), 0, 255).astype(np.uint8), colour

    return masked_folder(tmp_path_factory.mktemp("stripes"), CLASSES, (stripes() for _ in range(6)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose codes are the features, and whose centroids are worth nothing."""
    torch.manual_seed(0)
    values = {
        "encoder": {"channels": (8, 8, 8, 8), "stride": 4}, "projection": "none", "clusters": 4, "evaluation_size": 32,
        "squares": {"resampling": "nearest"},
    }  # fmt: skip
    stego = Stego(StegoConfig.model_validate(values)).eval()
    with torch.no_grad():  # all but one of which lie far from every code
        stego.cluster_probe.clusters[1:] = -stego.cluster_probe.clusters[1:].abs()
    path = tmp_path_factory.mktemp("run") / "model"
    save_model(stego, path, vocabularies=[], provenance={})
    return path


def stego_of(path: Path) -> Stego:
    method = load_model(path)
    assert isinstance(method, Stego)
    return method


def test_counts_at_places_are_those_of_the_pixels_nearest_to_them(model: Path, dataset: DataSet) -> None:
    cached = cache_codes(stego_of(model), dataset, range(2), evaluation_squares(model))
    for truth, table in zip(cached.truths, cached.places, strict=True):
        for place in (0, 7, 8, 63):  # 8 × 8 places of 4 × 4 pixels
            row, column = 4 * (place // 8), 4 * (place % 8)
            pixels = truth[row : row + 4, column : column + 4]
            assert table[place].tolist() == [int((pixels == name).sum()) for name in range(4)]


def test_another_number_of_clusters_is_fitted_as_if_the_network_ran_again(model: Path, dataset: DataSet) -> None:
    squares, rows = evaluation_squares(model), range(len(dataset))
    method = stego_of(model)
    cached = cache_codes(method, dataset, rows, squares)
    tried = try_clusters(cached, method.cluster_probe.clusters, (3, 4, 5, 6))
    assert [(len(c.vectors), c.learned) for c in tried] == [(4, True), (4, False), (5, False), (6, False)]
    for count, found in zip((4, 5, 6), tried[1:], strict=True):
        again = stego_of(model)
        fresh = cache_codes(again, dataset, rows, squares)
        (_, expected) = try_clusters(fresh, again.cluster_probe.clusters, (count,))
        assert torch.equal(found.vectors, expected.vectors)
        assert found.miou == expected.miou
    assert max(tried, key=lambda c: c.miou).miou > tried[0].miou + 0.2


def test_weights_of_the_crf_on_cached_codes_are_those_of_evaluation(model: Path, dataset: DataSet) -> None:
    squares, method = evaluation_squares(model), stego_of(model)
    cached = cache_codes(method, dataset, range(2), squares)
    method.take_clusters(try_clusters(cached, method.cluster_probe.clusters, (5,))[-1].vectors)
    config = CrfConfig(iterations=3, appearance_xy=8.0, appearance_rgb=20.0)
    pairs = weights_around(config)
    assert pairs[0] == (config.smoothness_weight, config.appearance_weight)
    assert len(set(pairs)) == len(WEIGHTS) ** 2
    tried = try_crf(method, cached, config, pairs)
    assert len(set(tried)) > 3
    for (smooth, alike), miou in list(zip(pairs, tried, strict=True))[:6]:
        weights = config.model_copy(update={"smoothness_weight": smooth, "appearance_weight": alike})
        counts = count_clusters(method, dataset, range(2), clusters=5, linear=False, squares=squares, crf=weights)
        assert miou == pytest.approx(counts.clusters.matched().miou, abs=1e-3)
        again = cache_codes(method, dataset, range(2), squares)
        assert [miou] == try_crf(method, again, weights, [(smooth, alike)])


def test_a_calibrated_copy_has_the_clusters_and_weights_that_were_best(
    model: Path, dataset: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = calibrate(model, dataset, tmp_path / "out", clusters=(5, 6), crf=True)
    assert found["after"]["miou"] > found["before"]["miou"]
    told = capsys.readouterr().err
    assert all(f"{part}: done in" in told for part in ("encode", "try clusters", "try weights of the CRF"))
    assert found["crf"]["after"]["miou"] >= found["crf"]["before"]["miou"]
    method = stego_of(tmp_path / "out")
    assert len(method.cluster_probe.clusters) == found["clusters"]
    assert (method.config.clusters, method.config.extra_clusters) == (4, found["clusters"] - 4)
    assert found["clusters"] in (5, 6)
    assert method.config.crf.smoothness_weight == found["crf"]["smoothness_weight"]
    cached = cache_codes(method, dataset, range(len(dataset)), evaluation_squares(tmp_path / "out"))
    (learned,) = try_clusters(cached, method.cluster_probe.clusters, ())
    assert learned.miou == found["after"]["miou"]


def test_what_cannot_be_matched_is_refused(model: Path, dataset: DataSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--clusters 2: .* has 4 classes"):
        calibrate(model, dataset, tmp_path / "out", clusters=(2, 5))
    assert not (tmp_path / "out").exists()
