from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from ovseg_ray.evaluation.report.curves import _smooth, curves_svg, read_records

STEPS = [
    {"step": i, "epoch": i / 4, "loss": 3.0, "loss/contrastive_term": 2.0, "loss/other": 1.0, "lr": 0.1}
    for i in range(9)
]


def test_an_svg_in_the_ink_of_the_page() -> None:
    svg = curves_svg([*STEPS, {"step": 4, "epoch": 1.0, "validation": {"miou": 0.4, "seen_miou": 0.5}}])
    assert svg is not None
    ElementTree.fromstring(svg)
    assert "currentColor" in svg
    for words in ("contrastive term", "learning rate", "mIoU", "seen", "epoch"):
        assert words in svg
    assert "unseen" not in svg


def test_a_validation_loss_instead_of_miou() -> None:
    svg = curves_svg([*STEPS, {"step": 4, "epoch": 1.0, "validation": {"loss": 0.4}}])
    assert svg is not None
    assert "validation loss" in svg


def test_nothing_logged_nothing_drawn() -> None:
    assert curves_svg([]) is None
    assert curves_svg([{"step": 1, "epoch": 0.1, "validation_error": "a.png: damaged"}]) is None


def test_two_figures_share_no_ids() -> None:
    def ids(svg: str | None) -> set[str]:
        return {e.attrib["id"] for e in ElementTree.fromstring(svg or "").iter("{http://www.w3.org/2000/svg}clipPath")}

    assert not ids(curves_svg(STEPS, "a")) & ids(curves_svg(STEPS, "b"))


def test_a_last_line_cut_short_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_records(tmp_path / "m.jsonl") == [{"step": 1}, {"step": 2}]
    assert read_records(tmp_path / "none.jsonl") == []


def test_smoothing_keeps_constants_and_length() -> None:
    assert np.allclose(_smooth(np.full(100, 2.5)), 2.5)
    assert len(_smooth(np.arange(7.0))) == 7
