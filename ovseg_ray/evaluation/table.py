"""The table of a result, printed from the result file alone."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

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


def summary(result: Mapping[str, Any]) -> str:
    """One line a label space: the headline numbers in percent."""
    spaces = result["spaces"]
    columns = {key: title for key, title in COLUMNS.items() if any(key in s["metrics"] for s in spaces.values())}
    table = _table("labels", *columns.values())
    for name, space in spaces.items():
        cells = [percent(space["metrics"].get(key)) for key in columns]
        table.add_row(f"{name} ({len(space['iou'])})", *cells)
    head = f"{result['name']}, {result['images']} images, protocol {result['protocol_hash']}"
    leaked = result.get("unseen_but_trained")
    note = f"\nnot zero-shot: the training had masks of {', '.join(leaked)}" if leaked else ""
    return f"{head}\n{_text(table)}{note}"


def per_class(result: Mapping[str, Any], space: str = "labels") -> str:
    """One line a label of a space: IoU in percent and share of the labelled pixels; held-out labels are starred."""
    scored = result["spaces"][space]
    total = max(1, sum(scored["pixels"].values()))
    table = _table("label", "IoU", "pixels %")
    for label, iou in scored["iou"].items():
        star = " *" if label in scored["unseen"] else ""
        table.add_row(label + star, percent(iou), percent(scored["pixels"][label] / total))
    return _text(table)


def markdown(result: Mapping[str, Any]) -> str:
    """`summary` as a Markdown table."""
    spaces = result["spaces"]
    columns = {key: title for key, title in COLUMNS.items() if any(key in s["metrics"] for s in spaces.values())}
    lines = ["| labels | " + " | ".join(columns.values()) + " |", "|---|" + "---:|" * len(columns)]
    for name, space in spaces.items():
        cells = " | ".join(percent(space["metrics"].get(key)) for key in columns)
        lines.append(f"| {name} ({len(space['iou'])}) | {cells} |")
    return "\n".join(lines)


def percent(value: float | None) -> str:
    """ "71.3" for 0.7134; a dash for what was not measured."""
    return "–" if value is None else f"{100 * value:.1f}"


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE, show_edge=False)
    table.add_column(first)
    for title in others:
        table.add_column(title, justify="right")
    return table


def _text(table: Table) -> str:
    console = Console(file=io.StringIO(), width=120, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
