from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from colour_method import ColourMethod, make_dataset, text_of
from ray import cloudpickle

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.distributed import score_on_ray
from ovseg_ray.evaluation.scoring import LabelSpace, score_rows
from ovseg_ray.vocabulary import Vocabulary

LABELS = ["red", "green", "blue", "yellow"]
pytestmark = pytest.mark.ray


def load(model: Path, device: str) -> ColourMethod:
    return ColourMethod()


def spaces() -> list[LabelSpace]:
    own, other = Vocabulary.of(LABELS), Vocabulary.of(["warm", "cold", "white"])
    return [LabelSpace("own", own, text_of(own)), LabelSpace("other", other, text_of(other), np.array([0, 1, 1, -1]))]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return make_dataset(tmp_path_factory.mktemp("colours"), 21, LABELS, sizes=((12, 16), (8, 8)))


@pytest.mark.parametrize(("workers", "block_rows"), [(1, 24), (2, 8)])
def test_the_same_counts_however_it_is_sharded(
    ray_cluster: None, dataset: DataSet, workers: int, block_rows: int
) -> None:
    plain = score_rows(ColourMethod(), dataset, range(len(dataset)), spaces())
    found = score_on_ray(load, Path("."), dataset, spaces(), workers=workers, block_rows=block_rows)
    assert set(found) == {"own", "other"}
    for name, matrix in plain.items():
        assert np.array_equal(found[name].counts, matrix.counts)


def test_an_unreadable_image_ends_it_with_its_name(ray_cluster: None, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 10, LABELS)
    (tmp_path / "007.png").write_bytes((tmp_path / "007.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"007\.png: "):
        score_on_ray(load, Path("."), dataset, spaces(), workers=1)


def test_no_images(ray_cluster: None, dataset: DataSet) -> None:
    empty = DataSet(dataset.path, "val", "arrays", dataset.index.slice(0, 0), dataset.vocabulary, dataset.masks)
    with pytest.raises(UserError, match="holds no images"):
        score_on_ray(load, Path("."), empty, spaces())


class DiesOnce(ColourMethod):
    """Kills its own process in the middle of the first block that any process scores."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self.marker = marker

    def preprocess(self, image: np.ndarray):
        if not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().preprocess(image)


def load_dying(model: Path, device: str) -> DiesOnce:
    return DiesOnce(model)


@pytest.mark.chaos
def test_a_killed_actor_costs_no_image(ray_cluster: None, dataset: DataSet, tmp_path: Path) -> None:
    # labels over 100 kB: arguments of that size keep plain Ray actors from restarting
    many = Vocabulary.of([*LABELS, *(f"red {'very ' * 20}{i}" for i in range(1_000))])
    large = LabelSpace("large", many, text_of(many), np.arange(4))
    assert len(cloudpickle.dumps(large)) > 100_000
    found = score_on_ray(load_dying, tmp_path / "died", dataset, [*spaces(), large], workers=1, block_rows=8)
    assert (tmp_path / "died").exists()
    plain = score_rows(ColourMethod(), dataset, range(len(dataset)), spaces())
    assert np.array_equal(found["own"].counts, plain["own"].counts)
    assert found["large"].counts.sum() == plain["own"].counts.sum()
