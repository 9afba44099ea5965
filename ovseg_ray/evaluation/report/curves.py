"""Training curves of a run as one SVG that takes its ink from the page around it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_INK = "#123456"  # stands for the page's own text colour
_LINES = ("#3b97d3", "#e67e22", "#2bb08a", "#c774a8", "#8d83dd", "#b7950b")  # readable on light and on dark
_RC = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
}
_VALIDATION = {"miou": "mIoU", "seen_miou": "seen", "unseen_miou": "unseen", "harmonic_miou": "harmonic"}


def read_records(path: Path) -> list[dict[str, Any]]:
    """Lines of a `metrics.jsonl`; [] where there is none. A last line cut short by a crash is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n") and line.strip():
            records.append(json.loads(line))
    return records


def curves_svg(records: Sequence[dict[str, Any]], salt: str = "") -> str | None:
    """Loss terms, validation and learning rate over epochs.

    Args:
        records: of `metrics.jsonl`.
        salt: distinguishes the ids of several SVGs on one page.

    Returns:
        An `<svg>` element, or None where nothing was logged.
    """
    steps = [r for r in records if "loss" in r]
    found = [{"epoch": r["epoch"], **r["validation"]} for r in records if "validation" in r]
    draw: list[Callable[[Axes], None]] = []
    if steps:
        draw.append(lambda axes: _losses(axes, steps))
    if found:
        draw.append(lambda axes: _validation(axes, found))
    if any("lr" in r for r in steps):
        draw.append(lambda axes: _learning_rate(axes, steps))
    if not draw:
        return None
    with rc_context({**_RC, "svg.hashsalt": salt or "curves"}):
        figure = Figure(figsize=(4.6 * len(draw), 2.9), layout="constrained")
        for plot, axes in zip(draw, np.atleast_1d(figure.subplots(1, len(draw))), strict=True):
            plot(axes)
            axes.set_xlabel("epoch")
            axes.grid(True)
            axes.margins(x=0.02)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")


def _losses(axes: Axes, steps: Sequence[dict[str, Any]]) -> None:
    terms = [key for key in steps[-1] if key.startswith("loss/")]
    if len(terms) < 2:
        terms = ["loss"]
    for term, colour in zip(terms, _colours(len(terms)), strict=True):
        x, y = _points(steps, term)
        axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
        label = term.removeprefix("loss/").replace("_", " ")
        axes.plot(x, _smooth(y), color=colour, linewidth=1.6, label=label)
    axes.set_title("training loss", loc="left")
    if len(terms) > 1:
        axes.legend(frameon=False, fontsize=9)


def _validation(axes: Axes, found: Sequence[dict[str, Any]]) -> None:
    names = {key: title for key, title in _VALIDATION.items() if any(r.get(key) is not None for r in found)}
    names = names or {"loss": "loss"}
    for (key, title), colour in zip(names.items(), _colours(len(names)), strict=True):
        x, y = _points(found, key)
        axes.plot(x, y, color=colour, linewidth=1.6, marker="o", markersize=3, label=title)
    if "loss" not in names:
        axes.set_ylim(0, 1)
    axes.set_title("validation" if "loss" not in names else "validation loss", loc="left")
    if len(names) > 1:
        axes.legend(frameon=False, fontsize=9, ncols=2)


def _learning_rate(axes: Axes, steps: Sequence[dict[str, Any]]) -> None:
    x, y = _points(steps, "lr")
    axes.plot(x, y, color=_colours(1)[0], linewidth=1.6)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title("learning rate", loc="left")


def _points(records: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(r["epoch"], r[key]) for r in records if r.get(key) is not None]
    return np.array([x for x, _ in pairs]), np.array([y for _, y in pairs], float)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over a window of a thirtieth of the curve, narrower at its ends."""
    width = max(1, len(values) // 30)
    total = np.concatenate([[0.0], np.cumsum(values)])
    i = np.arange(len(values))
    low, high = np.maximum(i - width, 0), np.minimum(i + width + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _colours(count: int) -> list[str]:
    return [_LINES[i % len(_LINES)] for i in range(count)]
