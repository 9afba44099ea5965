from __future__ import annotations

from ovseg_ray.evaluation.table import per_class, percent, summary

RESULT = {
    "name": "colours/val",
    "images": 20,
    "protocol_hash": "abc",
    "spaces": {
        "labels": {
            "metrics": {"miou": 0.7, "seen_miou": 0.8, "unseen_miou": 0.5, "pixel_accuracy": 0.91234},
            "iou": {"red": 0.8, "blue": 0.5, "cyan": None},
            "pixels": {"red": 30, "blue": 10, "cyan": 0},
            "unseen": ["blue"],
        },
        "shuffled": {"metrics": {"miou": 0.0123}, "iou": {"red": 0.0}, "pixels": {"red": 40}, "unseen": []},
    },
}


def cells(line: str) -> list[str]:
    return line.replace("|", " ").split()


def test_summary_needs_the_result_alone() -> None:
    text = summary(RESULT)
    assert "colours/val, 20 images, protocol abc" in text
    rows = [cells(line) for line in text.splitlines()]
    assert ["labels", "(3)", "70.0", "80.0", "50.0", "91.2"] in rows
    assert ["shuffled", "(1)", "1.2", "–", "–", "–"] in rows
    assert "fwIoU" not in text  # not measured anywhere: no column


def test_markdown() -> None:
    head, empty, *lines = summary(RESULT, markdown=True).splitlines()
    assert head.startswith("colours/val")
    assert empty == ""  # a paragraph of its own, or it would belong to the table
    assert lines[0] == "| labels | mIoU | seen | unseen | pixel acc |"
    assert lines[1] == "|---|---:|---:|---:|---:|"
    assert cells(lines[2]) == ["labels", "(3)", "70.0", "80.0", "50.0", "91.2"]
    assert len({line.count("|") for line in lines}) == 1
    leaked = summary({**RESULT, "unseen_but_trained": ["blue"]}, markdown=True)
    assert leaked.endswith("|\n\nnot zero-shot: the training had masks of blue")


def test_labels_in_markdown() -> None:
    result = {"spaces": {"labels": {"iou": {"a|b": 0.5}, "pixels": {"a|b": 1}, "unseen": []}}}
    lines = per_class(result, markdown=True).splitlines()
    assert lines == ["", "| label | IoU | pixels % |", "|---|---:|---:|", r"| a\|b | 50.0 | 100.0 |"]


def test_per_class_stars_what_was_held_out() -> None:
    rows = [cells(line) for line in per_class(RESULT).splitlines()]
    assert ["red", "80.0", "75.0"] in rows
    assert ["blue", "*", "50.0", "25.0"] in rows
    assert ["cyan", "–", "0.0"] in rows


def test_percent() -> None:
    assert [percent(v) for v in (None, 0.0, 1.0, 0.98765)] == ["–", "0.0", "100.0", "98.8"]
