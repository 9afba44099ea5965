"""Scoring of clusters over a data set: in one process, and on Ray with the same counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from masked_folder import masked_folder

import ovseg_ray
from ovseg_ray.data.dataset import DataSet
from ovseg_ray.data.squares import SquareConfig, square
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation import naming, unsupervised
from ovseg_ray.evaluation.evaluate import evaluate
from ovseg_ray.evaluation.evaluate_clusters import crf_rule, evaluation_squares
from ovseg_ray.evaluation.naming import name_run
from ovseg_ray.evaluation.table import summary
from ovseg_ray.evaluation.unsupervised import ClusterModel, UnsupervisedCounts, count_clusters
from ovseg_ray.methods.export import load_model, save_model
from ovseg_ray.methods.stego import Stego, StegoConfig
from ovseg_ray.methods.stego.crf import CrfConfig, DenseCrf, image_of
from ovseg_ray.methods.stego.naming import regions
from ovseg_ray.vocabulary.table_encoder import TableTextEncoder

COLOURS = np.array([[220, 30, 30], [30, 200, 40], [40, 40, 220]], np.uint8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Stripes of three colours, one class each; the top rows are ignored."""
    rng = np.random.default_rng(0)

    def stripes() -> tuple[np.ndarray, np.ndarray]:
        colour = np.repeat(rng.integers(0, 3, 4), 16)[None].repeat(48, 0).astype(np.uint8)
        return COLOURS[colour] + rng.integers(0, 20, (48, 64, 3), dtype=np.uint8), colour

    root = tmp_path_factory.mktemp("stripes")
    return masked_folder(root, ("red", "green", "blue"), (stripes() for _ in range(9)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose codes are the features; its centroids are those of the three colours."""
    torch.manual_seed(0)
    config = StegoConfig(
        encoder={"channels": (8, 8, 8, 8), "stride": 4}, projection="none", clusters=3, extra_clusters=1, classes=3,
        evaluation_size=32, squares={"resampling": "nearest"},
    )  # type: ignore[arg-type]  # fmt: skip
    stego = Stego(config).eval()
    plain = [np.full((32, 32, 3), colour, np.uint8) for colour in COLOURS]
    with torch.no_grad():
        codes = stego.encode(torch.stack([stego.preprocess(picture) for picture in plain])).tensors["codes"]
        centre = codes[:, :, 4, 4]
        order = [2, 0, 1]  # clusters have no order
        stego.cluster_probe.clusters.copy_(torch.cat([centre[order], -centre.mean(0, keepdim=True)]))
    path = tmp_path_factory.mktemp("run") / "model"
    save_model(stego, path, vocabularies=[], provenance={})
    return path


def counted(model: Path, dataset: DataSet, rows: range, crf: CrfConfig | None = None) -> UnsupervisedCounts:
    stego = load_model(model)
    assert isinstance(stego, ClusterModel)
    squares = evaluation_squares(model)
    return count_clusters(stego, dataset, rows, clusters=4, linear=True, squares=squares, crf=crf)


def test_clusters_of_colours_are_the_classes(model: Path, dataset: DataSet) -> None:
    assert evaluation_squares(model) == SquareConfig(size=32, resampling="nearest")
    score = counted(model, dataset, range(9)).clusters.matched()
    assert score.classes.tolist() == [2, 0, 1, -1]
    assert score.miou > 0.5
    # 32 x 32 pixels of 9 images, a twelfth of the rows ignored
    assert 9 * 32 * 29 <= score.histogram.sum() <= 9 * 32 * 30


def test_parts_add_up(model: Path, dataset: DataSet) -> None:
    whole = counted(model, dataset, range(9))
    parts = counted(model, dataset, range(4)).merge(counted(model, dataset, range(4, 9)))
    assert np.array_equal(whole.clusters.counts, parts.clusters.counts)
    assert whole.linear is not None
    assert parts.linear is not None
    assert np.array_equal(whole.linear.counts, parts.linear.counts)


def test_the_crf_follows_edges(model: Path, dataset: DataSet) -> None:
    plain, refined = (counted(model, dataset, range(4), crf).clusters.matched() for crf in (None, CrfConfig()))
    assert refined.accuracy > plain.accuracy


def test_the_crf_sees_the_original_s_picture_with_reference_alone(
    model: Path, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    class Watched(DenseCrf):
        def __init__(self, image: np.ndarray, config: CrfConfig | None = None) -> None:
            seen.append(image)
            super().__init__(image, config)

    monkeypatch.setattr(unsupervised, "DenseCrf", Watched)
    # `inference_size` is that of labels: the picture stays as large as the square that is scored
    own = {"reference": True, "inference_size": 16}
    original = Stego(StegoConfig.model_validate({**load_model(model).config.model_dump(), **own})).eval()
    original.load_state_dict(load_model(model).state_dict())
    save_model(original, tmp_path / "model", vocabularies=[], provenance={})
    crf = CrfConfig(appearance_rgb=0.5, iterations=3)
    plain, cut = (counted(path, dataset, range(2), crf) for path in (model, tmp_path / "model"))
    squares = [square(dataset.decoded(row).image, 32, "nearest") for row in range(2)]
    assert all(np.array_equal(found, picture) for found, picture in zip(seen[:2], squares, strict=True))
    mean, std = torch.tensor(original.backbone.mean), torch.tensor(original.backbone.std)
    for found, picture in zip(seen[2:], squares, strict=True):
        inputs = (torch.from_numpy(picture).permute(2, 0, 1) / 255 - mean[:, None, None]) / std[:, None, None]
        assert np.array_equal(found, image_of(inputs, mean, std, reference=True))
        assert set(np.unique(picture.astype(int) - found)) == {0, 1}
    assert not np.array_equal(plain.clusters.counts, cut.clusters.counts)
    assert crf_rule(model) == CrfConfig().model_dump(mode="json")
    assert crf_rule(tmp_path / "model") != crf_rule(model)  # nor are results of both compared


def test_fewer_clusters_than_classes(model: Path, dataset: DataSet) -> None:
    stego = load_model(model)
    assert isinstance(stego, ClusterModel)
    with pytest.raises(UserError, match=r"model\.clusters=3"):
        count_clusters(stego, dataset, range(1), clusters=2, linear=False, squares=SquareConfig(size=32))


@pytest.mark.ray
@pytest.mark.parametrize(("name", "value"), [("labels", "red"), ("controls", True)])
def test_clusters_without_names_take_no_labels(model: Path, dataset: DataSet, name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"--{name}: .*ovseg-ray name"):
        evaluate(model, dataset, **{name: value})  # type: ignore[arg-type]


@pytest.mark.usefixtures("ray_cluster")
def test_on_ray_the_counts_are_the_same(model: Path, dataset: DataSet, tmp_path: Path) -> None:
    expected = counted(model, dataset, range(9))
    result = evaluate(model.parent, dataset, out=tmp_path / "r.json", workers=2)
    found = result["spaces"]["clusters"]
    assert np.array_equal(np.array(found["confusion"]), expected.clusters.matched().histogram.T)
    assert found["cluster_classes"] == [2, 0, 1, -1]
    assert found["metrics"]["pixel_accuracy"] == pytest.approx(expected.clusters.matched().accuracy)
    assert found["distractors"] == ["(no class)"]
    assert "one to one" in result["protocol"]["rules"]["clusters"]
    assert "clusters" in summary(json.loads((tmp_path / "r.json").read_text()))
    assert "linear" in result["spaces"]


@pytest.fixture
def named(model: Path, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run with names, by towers that see colours."""
    texts = TableTextEncoder(["red", "green", "blue", "grey"], torch.cat([torch.eye(3), torch.ones(1, 3) / 3**0.5]))

    def embed(pictures: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.stack([torch.from_numpy(picture).float().mean((0, 1)) for picture in pictures])

    monkeypatch.setattr(naming, "build_image_encoder", lambda spec, device: embed)
    monkeypatch.setattr(naming, "build_text_encoder", lambda spec: texts)
    found = name_run(model.parent, tmp_path / "named", "run:clip", dataset)
    assert (found.names.regions > 0).tolist() == [True, True, True, False]  # the last stands for nothing
    return found.run.path


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_named_clusters_answer_labels_beside_their_upper_bound(named: Path, model: Path, dataset: DataSet) -> None:
    result = evaluate(named, dataset, workers=1)
    spaces = {name: space["metrics"]["miou"] for name, space in result["spaces"].items()}
    assert set(spaces) == {"labels", "clusters", "linear", "named"}
    assert spaces["named"] > 0.5
    assert spaces["named"] <= spaces["clusters"] + 0.05  # clusters vote softly for labels
    assert spaces["labels"] > 0.5
    assert set(result["protocol"]["spaces"]) == set(spaces)
    assert "one to one" in result["protocol"]["rules_of_clusters"]["clusters"]
    others = evaluate(named, dataset, labels="blue, green, red", workers=1)
    assert set(others["spaces"]) == {"labels"}
    answer = ovseg_ray.load(named, "cpu").segment(np.full((32, 32, 3), COLOURS[1], np.uint8), "red, green, blue")
    assert (answer.label_map == 1).mean() > 0.7


def test_what_cannot_be_named(named: Path, model: Path, dataset: DataSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="named already"):
        name_run(named, tmp_path / "again", "run:clip", dataset)
    with pytest.raises(UserError, match="is not empty"):
        name_run(model.parent, named / "model", "run:clip", dataset)


def test_regions_are_cut_out_and_the_rest_blanked() -> None:
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[5:15, 10:20] = (255, 0, 0)
    clusters = np.zeros((20, 30), np.int64)
    clusters[5:15, 10:20] = 2
    clusters[0, 0] = 1  # one pixel shows nothing
    (_, rest, _), (cluster, share, cut) = regions(picture, clusters, 4)
    assert (cluster, rest) == (2, pytest.approx(499 / 600))
    assert share == pytest.approx(1 / 6)
    assert cut.shape == (12, 12, 3)
    assert (cut[1:-1, 1:-1] == (255, 0, 0)).all()
    assert (cut[0] == picture.reshape(-1, 3).mean(0).round()).all()
