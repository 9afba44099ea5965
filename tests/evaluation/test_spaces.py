from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from colour_method import make_dataset, text_of

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.spaces import label_space, unseen_labels
from ovseg_ray.vocabulary import Label, Vocabulary

LABELS = ["red", "green", "blue", "yellow"]
PARENTS = {"red": "warm", "yellow": "warm", "blue": "cold"}


@pytest.fixture
def dataset(tmp_path: Path) -> DataSet:
    return replace(make_dataset(tmp_path, 1, LABELS), parents=PARENTS, unseen=("blue", "yellow"))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["red", "green", "blue", "yellow"], None),
        (["blue", "red"], [1, -1, 0, -1]),
        (["cyan", "Green "], [-1, 1, -1, -1]),
        (["warm", "cold"], [0, -1, 1, 0]),
        (["warm", "red"], [1, -1, -1, 0]),  # a class's own name goes before its parent's
        (["red", "green", "blue", "yellow", "cyan"], [0, 1, 2, 3]),
    ],
)
def test_truth_by_name(dataset: DataSet, labels: list[str], expected: list[int] | None) -> None:
    space = label_space("asked", dataset, Vocabulary.of(labels), text_of)
    found = None if space.truth_map is None else space.truth_map.tolist()
    if expected == [0, 1, 2, 3]:
        assert found in (None, expected)
    else:
        assert found == expected


def test_synonyms_are_asked_but_the_name_is_matched(dataset: DataSet) -> None:
    vocabulary = Vocabulary((Label("red", ("warm",)), Label("blue", ("blue",))))
    assert label_space("asked", dataset, vocabulary, text_of).truth_map.tolist() == [0, -1, 1, -1]


def test_labels_that_name_nothing(dataset: DataSet) -> None:
    with pytest.raises(UserError, match=r"'cyan', names a class of the data set; they are red, green"):
        label_space("asked", dataset, Vocabulary.of(["cyan", "white"]), text_of)
    with pytest.raises(UserError, match=r"did you mean 'yellow'\?"):
        label_space("asked", dataset, Vocabulary.of(["yelow"]), lambda v: text_of(Vocabulary.of(["red"])))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (LABELS, [2, 3]),
        (["warm", "cold"], [1]),  # warm holds red, which was trained
        (["cyan", "blue"], [1]),
        (["red"], []),
    ],
)
def test_unseen_labels(dataset: DataSet, labels: list[str], expected: list[int]) -> None:
    space = label_space("asked", dataset, Vocabulary.of(labels), text_of)
    assert unseen_labels(space, dataset, dataset.unseen) == expected
