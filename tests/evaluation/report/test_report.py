from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.confusion import ConfusionMatrix
from ovseg_ray.evaluation.evaluate import default_spaces
from ovseg_ray.evaluation.report import Example, Panel, ReportInput, make_examples, write_report
from ovseg_ray.evaluation.result import make_result, read_result, write_result
from ovseg_ray.segmenter import Segmenter


class References(HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [v or "" for k, v in attributes if k in ("src", "href", "srcset", "data", "action")]


@pytest.fixture
def run(tiny_run: Path) -> Path:
    (tiny_run / "config.yaml").write_text("method: lseg\ntraining:\n  epochs: 3\n")
    (tiny_run / "provenance.json").write_text('{"seed": 7}')
    lines = [{"step": i, "epoch": i / 10, "loss": 2.0 / (i + 1), "lr": 1e-3} for i in range(30)]
    lines += [{"step": 10, "epoch": 1.0, "validation": {"miou": 0.5, "unseen_miou": None}}]
    (tiny_run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3')
    return tiny_run


@pytest.fixture
def result(run: Path, colours: DataSet, tmp_path: Path) -> dict:
    dataset = replace(colours, unseen=("yellow",))
    spaces = default_spaces(Segmenter.load(run), dataset, controls=True)
    rng = np.random.default_rng(0)
    matrices = {}
    for space in spaces:
        n = len(space.vocabulary)
        matrices[space.name] = ConfusionMatrix(n, rng.integers(0, 9, (n, n)) + 200 * np.eye(n, dtype=int))
    write_result(tmp_path / "r.json", make_result(dataset, spaces, matrices, run / "model", seconds=61.0))
    return read_result(tmp_path / "r.json")


def test_one_file_that_needs_no_other(run: Path, result: dict, colours: DataSet, tmp_path: Path) -> None:
    examples = make_examples(run, colours, [0, 1], {"my words": "red, cyan"})
    assert [p.title for p in examples[0].panels] == ["truth", "prediction", "prediction by parents' names", "my words"]
    content = ReportInput("A title", {"lseg": result}, {"lseg": run}, examples, {"world": 3.0, "lseg": 75.0}, "Sum.")
    write_report(tmp_path / "report.html", content)
    page = (tmp_path / "report.html").read_text()
    outside = [r for r in References(page).found if not r.startswith(("data:", "#"))]
    assert outside == []
    assert re.findall(r"@import|url\((?!['\"]?(?:data:|&#39;data:|#))", page) == []
    unseen = 100 * result["spaces"]["labels"]["metrics"]["unseen_miou"]
    for words in ("A title", "Sum.", f"{unseen:.1f}", "my words", "shuffled", "<svg", "epochs: 3", "1 min 15 s"):
        assert words in page, words
    assert page.count("<figure>") == 2 * 5
    assert result["protocol_hash"] in page


def test_names_are_text_never_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    image, label_map = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    example = Example(evil, image, (Panel(evil, label_map, (evil, "b")),))
    write_report(tmp_path / "r.html", ReportInput(evil, examples=[example], seconds={evil: 1.0}, summary=evil))
    assert evil not in (tmp_path / "r.html").read_text()


def test_parts_that_are_missing_leave_no_hole(tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", ReportInput("Nothing yet", runs={"empty": tmp_path}))
    page = (tmp_path / "r.html").read_text()
    assert "Nothing yet" in page
    assert "Pictures" not in page
    assert "<svg" not in page


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_report(tmp_path / "file" / "r.html", ReportInput("x"))
