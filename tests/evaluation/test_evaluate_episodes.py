"""Zero-shot episodes scored by a method that needs no training, against a plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from colour_method import COLOURS, ColourMethod, ColourText, make_dataset
from PIL import Image

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.data.episodes import EpisodeProtocol, Fold
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation import evaluate_episodes as module
from ovseg_ray.evaluation.episodes import EpisodeScores
from ovseg_ray.evaluation.evaluate_episodes import evaluate_episodes, score_episodes
from ovseg_ray.evaluation.table import summary
from ovseg_ray.methods.base import Encoding, Segmentation
from ovseg_ray.vocabulary import Vocabulary

LABELS = ["red", "green", "blue", "yellow"]
COLOURS.setdefault("others", (160, 150, 140))


def fold(number: int = 1, size: int | None = None, unlabelled: str = "ignored") -> Fold:
    values = {"folds": 2, "held_out": "interleaved", "draw": "classes", "episodes": 30, "unlabelled": unlabelled}
    return Fold("colours:1", EpisodeProtocol.model_validate({**values, "size": size}), number)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return make_dataset(tmp_path_factory.mktemp("colours"), 13, LABELS, sizes=((12, 16), (8, 8)))


def embed(vocabulary: Vocabulary) -> torch.Tensor:
    return ColourText().encode(vocabulary.names)


def load(model: Path, device: str) -> ColourMethod:
    return ColourMethod()


def texts(of: Fold, dataset: DataSet) -> dict[int, torch.Tensor]:
    return {index: embed(of.question(dataset, index)) for index in of.held_out(dataset)}


@pytest.mark.parametrize("size", [None, 24])
@pytest.mark.parametrize("unlabelled", ["ignored", "others"])
def test_equal_to_a_plain_loop(dataset: DataSet, size: int | None, unlabelled: str) -> None:
    of = fold(size=size, unlabelled=unlabelled)
    episodes = of.episodes(dataset)
    expected = EpisodeScores(of.held_out(dataset))
    for row, index in episodes:
        sample = dataset.decoded(row)
        image, mask = sample.image, sample.mask
        assert mask is not None
        if size is not None:
            image = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
            # as the published code resizes masks
            mask = F.interpolate(torch.from_numpy(mask)[None, None].float(), (size, size), mode="nearest")[0, 0].numpy()
        pixels = F.normalize(torch.from_numpy(image.copy()).float() / 255 + 0.01, dim=2)
        found = (pixels @ embed(of.question(dataset, index)).T).argmax(2).numpy()
        ignored = (mask == 255) if unlabelled == "ignored" else None
        expected.update(found, mask == index, index, ignored)
    scores = score_episodes(ColourMethod(), dataset, of, episodes, texts(of, dataset))
    for index, matrix in expected.matrices.items():
        assert np.array_equal(scores.matrices[index].counts, matrix.counts)
    assert 0.3 < scores.metrics()["miou"] < 1


class Whole(ColourMethod):
    """Sees the class everywhere."""

    def segment(self, encoding: Encoding, text: torch.Tensor, size: tuple[int, int]) -> Segmentation:
        return Segmentation(torch.ones(1, *size, dtype=torch.int64), torch.ones(1, *size))


def test_the_class_is_the_second_label(dataset: DataSet) -> None:
    of = fold()
    scores = score_episodes(Whole(), dataset, of, of.episodes(dataset), texts(of, dataset))
    for matrix in scores.matrices.values():
        assert matrix.counts[:, 0].sum() == 0
        assert matrix.counts[1, 1] > 0


@pytest.mark.ray
def test_on_ray_the_same_counts(ray_cluster: None, dataset: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"model": {}, "versions": {}, "label_sets": [("others", "green")]}
    monkeypatch.setattr(module, "describe", lambda model: dict(about))
    of = fold()
    plain = score_episodes(ColourMethod(), dataset, of, of.episodes(dataset), texts(of, dataset))
    result = evaluate_episodes(load, Path("."), dataset, of, embed, ("{}",), workers=2)
    space = result["spaces"]["colours:1"]
    assert space["metrics"] == pytest.approx(plain.metrics())
    names = [LABELS[index] for index in of.held_out(dataset)]
    assert space["confusion"] == {n: m.counts.tolist() for n, m in zip(names, plain.matrices.values(), strict=True)}
    assert result["unseen_but_trained"] == ["green"]
    assert result["images"] == 30
    assert "FB-IoU" in summary(result)


@pytest.mark.ray
def test_an_unreadable_image_ends_it_with_its_name(ray_cluster: None, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 6, LABELS)
    (tmp_path / "003.png").write_bytes((tmp_path / "003.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"003\.png: "):
        evaluate_episodes(load, Path("."), dataset, fold(), embed, ("{}",), workers=1)
