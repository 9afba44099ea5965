from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from colour_method import ColourMethod, make_dataset, text_of

from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.controls import parents_space, shuffled
from ovseg_ray.evaluation.scoring import LabelSpace, score_rows
from ovseg_ray.vocabulary import Vocabulary

LABELS = ["red", "green", "blue", "yellow"]


@pytest.mark.parametrize("n", [2, 3, 10, 101])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_label_keeps_its_text(n: int, seed: int) -> None:
    space = LabelSpace("own", Vocabulary.of(map(str, range(n))), torch.arange(n).float()[:, None])
    order = shuffled(space, seed).text[:, 0].int().tolist()
    assert sorted(order) == list(range(n))
    assert all(i != j for i, j in enumerate(order))
    assert order == shuffled(space, seed).text[:, 0].int().tolist()


def test_one_label_cannot_be_shuffled() -> None:
    with pytest.raises(UserError, match="two or more"):
        shuffled(LabelSpace("own", Vocabulary.of(["red"]), torch.ones(1, 3)))


def test_the_shuffled_control_falls(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 4, LABELS)
    own = LabelSpace("own", Vocabulary.of(LABELS), text_of(Vocabulary.of(LABELS)))
    found = score_rows(ColourMethod(), dataset, range(4), [own, shuffled(own)])
    assert found["own"].metrics()["miou"] > 0.7
    assert found["shuffled"].metrics()["miou"] < 0.1


def test_parents(tmp_path: Path) -> None:
    dataset = replace(make_dataset(tmp_path, 4, LABELS), parents={"red": "warm", "yellow": "warm", "blue": "cold"})
    space = parents_space(dataset, text_of, ("{}",))
    assert space.vocabulary.names == ("warm", "green", "cold")
    assert space.truth_map.tolist() == [0, 1, 2, 0]
    assert score_rows(ColourMethod(), dataset, range(4), [space])["parents"].metrics()["miou"] > 0.6


def test_no_hierarchy_no_parents(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no parents"):
        parents_space(make_dataset(tmp_path, 1, LABELS), text_of, ("{}",))
