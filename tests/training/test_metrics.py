from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ovseg_ray.errors import UserError
from ovseg_ray.training.metrics import append_metrics, read_metrics, truncate_metrics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "run" / "metrics.jsonl"
    for step in (1, 5, 10):
        append_metrics(file, {"step": step, "loss": 1 / step})
    append_metrics(file, {"step": 5, "validation": {"miou": 0.5}})
    append_metrics(file, {"step": 15, "loss": 0.01})
    return file


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_lines_come_in_the_order_they_were_added(path: Path) -> None:
    assert steps(path) == [1, 5, 10, 5, 15]


@pytest.mark.parametrize(("step", "left"), [(20, [1, 5, 10, 5, 15]), (10, [1, 5, 10, 5]), (7, [1, 5, 5]), (0, [])])
def test_truncation_drops_what_comes_after(path: Path, step: int, left: list[int]) -> None:
    truncate_metrics(path, step)
    assert steps(path) == left


@pytest.mark.parametrize("rest", ['{"step": 3', '{"step": 3}', "\x00\x00", "[]\n", '{"loss": 1}\n'])
def test_half_written_lines_are_dropped(path: Path, rest: str) -> None:
    with path.open("a") as file:
        file.write(rest)
    assert [record["step"] for record in read_metrics(path)[0]] == [1, 5, 10, 5, 15]
    truncate_metrics(path, 15)
    assert steps(path) == [1, 5, 10, 5, 15]
    append_metrics(path, {"step": 16})
    assert steps(path)[-1] == 16


def test_a_validation_stands_once(path: Path) -> None:
    append_metrics(path, {"step": 5, "validation": {"miou": 0.7}})
    append_metrics(path, {"step": 10, "validation": {"miou": 0.7}})
    assert steps(path) == [1, 5, 10, 5, 15, 10]


def test_no_number_is_null(path: Path) -> None:
    append_metrics(path, {"step": 20, "validation": {"miou": math.nan, "a": {"b": math.inf}, "c": 1.0}})
    record = json.loads(path.read_text().splitlines()[-1])
    assert record["validation"] == {"miou": None, "a": {"b": None}, "c": 1.0}


def test_reading_goes_on_where_it_ended(path: Path) -> None:
    records, end = read_metrics(path)
    assert len(records) == 5
    assert read_metrics(path, end) == ([], end)
    with path.open("a") as file:
        file.write('{"step": 16}\n{"step"')
    records, later = read_metrics(path, end)
    assert records == [{"step": 16}]
    with path.open("a") as file:
        file.write(": 17}\n")
    assert read_metrics(path, later)[0] == [{"step": 17}]
    truncate_metrics(path, 1)
    assert read_metrics(path, later)[0] == [{"step": 1, "loss": 1.0}]
    assert read_metrics(path.with_name("missing")) == ([], 0)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"metrics.jsonl: cannot be written"):
        append_metrics(tmp_path / "file" / "metrics.jsonl", {"step": 1})
