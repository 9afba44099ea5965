"""The table of a result, printed from the result file alone."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import rich.table
from rich import box
from rich.console import Console

COLUMNS = {
    "miou": "mIoU",
    "fb_iou": "FB-IoU",
    "seen_miou": "seen",
    "unseen_miou": "unseen",
    "harmonic_miou": "harmonic",
    "pixel_accuracy": "pixel acc",
    "mean_accuracy": "mean acc",
    "fwiou": "fwIoU",
}


class Table(NamedTuple):
    """Titles, the first of them that of the row's name, and rows of as many texts."""

    titles: list[str]
    rows: list[list[str]]

    def plain(self) -> str:
        """For a terminal."""
        table = rich.table.Table(box=box.SIMPLE, show_edge=False)
        for position, title in enumerate(self.titles):
            table.add_column(title, justify="right" if position else "left")
        for row in self.rows:
            table.add_row(*row)
        console = Console(file=io.StringIO(), width=120, color_system=None)
        with console.capture() as capture:
            console.print(table)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def markdown(self) -> str:
        """For a page."""
        rule = "|---|" + "---:|" * (len(self.titles) - 1)
        lines = [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [self.titles, *self.rows]
        ]
        return "\n".join([lines[0], rule, *lines[1:]])


def summary(result: Mapping[str, Any], markdown: bool = False) -> str:
    """One line a label space: the headline numbers in percent."""
    spaces = result["spaces"]
    columns = {key: title for key, title in COLUMNS.items() if any(key in s["metrics"] for s in spaces.values())}
    rows = [
        [f"{name} ({len(space['iou'])})", *(percent(space["metrics"].get(key)) for key in columns)]
        for name, space in spaces.items()
    ]
    table = Table(["labels", *columns.values()], rows)
    head = f"{result['name']}, {result['images']} images, protocol {result['protocol_hash']}"
    leaked = result.get("unseen_but_trained")
    note = f"not zero-shot: the training had masks of {', '.join(leaked)}" if leaked else ""
    if markdown:
        return "\n\n".join([head, table.markdown(), *([note] if note else [])])
    return "\n".join([head, table.plain(), *([note] if note else [])])


def per_class(result: Mapping[str, Any], space: str = "labels", markdown: bool = False) -> str:
    """One line a label of a space: IoU in percent and share of the labelled pixels; held-out labels are starred."""
    scored = result["spaces"][space]
    total = max(1, sum(scored["pixels"].values()))
    rows = [
        [label + (" *" if label in scored["unseen"] else ""), percent(iou), percent(scored["pixels"][label] / total)]
        for label, iou in scored["iou"].items()
    ]
    table = Table(["label", "IoU", "pixels %"], rows)
    return "\n" + table.markdown() if markdown else table.plain()


def percent(value: float | None) -> str:
    """ "71.3" for 0.7134; a dash for what was not measured."""
    return "–" if value is None else f"{100 * value:.1f}"
