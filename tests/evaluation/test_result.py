from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from colour_method import ColourMethod

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.confusion import ConfusionMatrix
from ovseg_ray.evaluation.evaluate import default_spaces
from ovseg_ray.evaluation.result import make_result, read_result, write_result
from ovseg_ray.evaluation.scoring import score_rows
from ovseg_ray.segmenter import Segmenter
from ovseg_ray.vocabulary import Vocabulary


def result_of(dataset: DataSet, run: Path, labels: str | None = None) -> dict:
    spaces = default_spaces(Segmenter(ColourMethod()), dataset, labels, controls=labels is None)
    matrices = score_rows(ColourMethod(), dataset, range(len(dataset)), spaces)
    return make_result(dataset, spaces, matrices, run / "model", seconds=1.0)


def test_the_file_holds_protocol_counts_and_numbers(tiny_run: Path, colours: DataSet, tmp_path: Path) -> None:
    result = result_of(colours, tiny_run)
    write_result(tmp_path / "deep" / "result.json", result)
    back = read_result(tmp_path / "deep" / "result.json")
    assert back == json.loads(json.dumps(result))
    assert list(back["spaces"]) == ["labels", "shuffled", "parents"]
    labels = back["spaces"]["labels"]
    again = ConfusionMatrix(4, np.array(labels["confusion"]))
    assert again.metrics(unseen=[3]) == pytest.approx(labels["metrics"])
    assert labels["unseen"] == ["yellow"]  # named in no label set of the training
    assert back["spaces"]["parents"]["unseen"] == []
    asked = back["protocol"]["spaces"]["labels"]
    assert [label["name"] for label in asked["labels"]] == ["red", "green", "blue", "yellow"]
    assert asked["templates"] == ["{}"]
    assert back["protocol"]["data"]["fingerprint"] == colours.fingerprint()
    assert back["model"]["method"] == "lseg"
    assert back["versions"]["torch"]
    assert back["images"] == 20


def test_the_data_sets_own_held_out_labels_come_first(tiny_run: Path, colours: DataSet) -> None:
    result = result_of(replace(colours, unseen=("red", "yellow")), tiny_run)
    assert result["spaces"]["labels"]["unseen"] == ["red", "yellow"]
    assert result["spaces"]["parents"]["unseen"] == ["warm"]


def test_the_hash_says_what_was_asked(tiny_run: Path, colours: DataSet) -> None:
    first = result_of(colours, tiny_run)["protocol_hash"]
    assert result_of(colours, tiny_run)["protocol_hash"] == first
    assert result_of(colours, tiny_run, "red, green, blue")["protocol_hash"] != first
    fewer = replace(colours, index=colours.index.slice(0, 8))
    assert result_of(fewer, tiny_run)["protocol_hash"] != first


def test_distractors_and_classes_left_out_are_named(tiny_run: Path, colours: DataSet) -> None:
    space = result_of(colours, tiny_run, "red, cyan, blue")["spaces"]["labels"]
    assert space["distractors"] == ["cyan"]
    assert space["ignored_classes"] == ["green", "yellow"]
    assert space["iou"]["cyan"] in (None, 0.0)


def test_undefined_numbers_are_null(tiny_run: Path, colours: DataSet, tmp_path: Path) -> None:
    spaces = default_spaces(Segmenter(ColourMethod()), colours)
    result = make_result(colours, spaces, {"labels": ConfusionMatrix(4)}, tiny_run / "model", seconds=0.0)
    write_result(tmp_path / "r.json", result)
    assert read_result(tmp_path / "r.json")["spaces"]["labels"]["metrics"]["miou"] is None


def test_default_labels_are_asked_with_the_templates_of_training(colours: DataSet) -> None:
    method = ColourMethod()
    method.label_sets = (Vocabulary.of(["red"], ["a photo of a {}."]),)
    spaces = default_spaces(Segmenter(method), colours)
    assert spaces[0].vocabulary.templates == ("a photo of a {}.",)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), ("{", "not valid JSON"), ("[]", "not a result file"), ('{"format": "x"}', "not a result")],
)
def test_what_is_no_result_file(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "r.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        read_result(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
