from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from colour_method import ColourMethod

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.evaluate import default_spaces, evaluate
from ovseg_ray.evaluation.result import read_result
from ovseg_ray.evaluation.scoring import score_rows
from ovseg_ray.methods.export import load_model
from ovseg_ray.segmenter import Segmenter


@pytest.mark.ray
def test_a_run_on_ray_gets_the_counts_of_plain_scoring(
    ray_cluster: None, tiny_run: Path, colours: DataSet, tmp_path: Path
) -> None:
    result = evaluate(tiny_run, colours, controls=True, out=tmp_path / "r.json", workers=2)
    assert read_result(tmp_path / "r.json") == result
    method = load_model(tiny_run / "model")
    spaces = default_spaces(Segmenter(method), colours, controls=True)
    plain = score_rows(method, colours, range(len(colours)), spaces)
    for name, matrix in plain.items():
        assert np.array_equal(result["spaces"][name]["confusion"], matrix.counts)


def test_what_is_no_run(colours: DataSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run"):
        evaluate(tmp_path / "nothing", colours)


def test_a_folder_is_no_result_file(tiny_run: Path, colours: DataSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; give a file"):
        evaluate(tiny_run, colours, out=tmp_path)


def test_an_option_that_says_nothing_to_the_method(tiny_run: Path, colours: DataSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--crf: refines clusters, and a 'lseg' model has none"):
        evaluate(tiny_run, colours, crf=True)


def test_controls_come_where_they_make_sense(colours: DataSet) -> None:
    segmenter = Segmenter(ColourMethod())
    assert [s.name for s in default_spaces(segmenter, colours)] == ["labels"]
    assert [s.name for s in default_spaces(segmenter, colours, controls=True)] == ["labels", "shuffled", "parents"]
    assert [s.name for s in default_spaces(segmenter, colours, "red", controls=True)] == ["labels", "parents"]
