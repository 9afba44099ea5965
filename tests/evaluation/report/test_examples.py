from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.report.examples import make_examples, telling_rows
from ovseg_ray.segmenter import Segmenter


def test_panels_are_the_truth_and_what_the_model_says(tiny_run: Path, colours: DataSet) -> None:
    (example,) = make_examples(tiny_run, replace(colours, parents={}), [3])
    sample = colours.decoded(3)
    truth, prediction = example.panels
    assert np.array_equal(truth.label_map, sample.mask)
    expected = Segmenter.load(tiny_run).segment(sample.image, list(colours.vocabulary.names))
    assert np.array_equal(prediction.label_map, expected.label_map)
    assert prediction.names == ("red", "green", "blue", "yellow")


def test_labels_that_the_model_does_not_know(tiny_run: Path, colours: DataSet) -> None:
    with pytest.raises(UserError, match="mauve"):
        make_examples(tiny_run, colours, [0], {"odd": "mauve"})


def test_telling_rows_show_held_out_labels(colours: DataSet) -> None:
    rows = telling_rows(replace(colours, unseen=("yellow",)), 3)
    assert len(rows) == 3
    assert rows == sorted(rows)
    assert all((colours.decoded(row).mask == 3).any() for row in rows)
    assert telling_rows(colours, 100) == list(range(20))
