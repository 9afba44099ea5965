"""What the report shows, gathered from runs and results, and the page made of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from ovseg_ray.evaluation.overlay import SMALLEST, colour_layer
from ovseg_ray.evaluation.palette import palette
from ovseg_ray.evaluation.report.curves import curves_svg, read_records
from ovseg_ray.evaluation.report.examples import Example, Panel
from ovseg_ray.evaluation.table import COLUMNS, percent
from ovseg_ray.run_directory import RunDirectory, write_atomically

_HERE = Path(__file__).parent
_LEGEND = 9
_CONFUSIONS = 10
_HEADLINE = {
    "unseen_miou": ("Unseen", "mIoU of labels that never had a mask in training"),
    "seen_miou": ("Seen", "mIoU of labels that were trained"),
    "harmonic_miou": ("Harmonic", "mean of seen and unseen that punishes neglecting either"),
    "miou": ("mIoU", "mean over all labels that occur"),
    "pixel_accuracy": ("Pixel accuracy", "share of labelled pixels that are right"),
}
_SPACES = {
    "labels": "the labels as asked",
    "shuffled": "control: each label is asked with the text of another, so this must fall to chance",
    "parents": "control: the parents' names are asked instead of the leaves'",
    "clusters": "clusters matched to labels on this very set: what no naming of them can exceed",
    "linear": "a linear classifier of the same codes, trained with labels",
    "named": "labels by the names of clusters, on the same squares as the clusters",
    "k-means": "k-means on the same features, matched like the clusters",
}


@dataclass(frozen=True)
class ReportInput:
    """All that a report is made of.

    Attributes:
        title: of the page.
        results: name -> result of `evaluate` or `read_result`; the first gives the headline.
        runs: name -> run directory: curves, configuration and provenance.
        examples: of `make_examples`.
        seconds: step -> wall seconds.
        summary: a sentence or two under the title.
    """

    title: str
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    runs: Mapping[str, Path] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    summary: str = ""


def write_report(path: Path, report: ReportInput) -> None:
    """Write one HTML file that needs nothing beside itself: no script, style, font or picture from elsewhere.

    Raises:
        UserError: it cannot be written.
    """
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "clock": _clock, "yaml": _yaml}
    unseen = {name for result in report.results.values() for name in result["spaces"]["labels"]["unseen"]}
    page = environment.get_template("report.html").render(
        title=report.title,
        summary=report.summary,
        style=Markup((_HERE / "report.css").read_text(encoding="utf-8")),  # our own file
        headline=_headline(report.results),
        results={name: _result(result) for name, result in report.results.items()},
        examples=[_example(example, unseen) for example in report.examples],
        runs={name: _run(name, Path(run)) for name, run in report.runs.items()},
        seconds=dict(report.seconds),
    )
    write_atomically(path, page)


def _headline(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    if not results:
        return []
    spaces = next(iter(results.values()))["spaces"]
    metrics = spaces["labels"]["metrics"]
    cards = [
        {"title": title, "value": metrics[key], "note": note, "kind": key}
        for key, (title, note) in _HEADLINE.items()
        if metrics.get(key) is not None and (key != "miou" or metrics.get("unseen_miou") is None)
    ]
    for name in ("shuffled", "parents"):
        if name in spaces:
            found = spaces[name]["metrics"]
            value = found.get("unseen_miou") if name == "shuffled" else None
            value = found["miou"] if value is None else value
            which = "unseen mIoU" if name == "shuffled" and found.get("unseen_miou") is not None else "mIoU"
            cards.append(
                {"title": name.capitalize(), "value": value, "note": f"{which}, {_SPACES[name]}", "kind": "control"}
            )
    return cards


def _result(result: Mapping[str, Any]) -> dict[str, Any]:
    spaces = result["spaces"]
    columns = {key: title for key, title in COLUMNS.items() if any(key in s["metrics"] for s in spaces.values())}
    own = spaces["labels"]
    total = max(1, sum(own["pixels"].values()))
    bars = [
        {"label": label, "iou": iou, "unseen": label in own["unseen"], "share": own["pixels"][label] / total}
        for label, iou in own["iou"].items()
        if own["pixels"][label]
    ]
    return {
        **result,
        "columns": columns,
        "notes": {name: _SPACES.get(name, "") for name in spaces},
        "bars": sorted(bars, key=lambda bar: (-bar["iou"], bar["label"])),
        "confusions": _confusions(own),
    }


def _confusions(space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The largest shares of a label's pixels that were taken for another label."""
    counts = np.array(space["confusion"], np.float64)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(share, 0)
    labels = list(space["iou"])
    order = np.argsort(-share, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = zip(*np.unravel_index(order, share.shape), strict=True)
    return [{"truth": labels[t], "found": labels[f], "share": share[t, f]} for t, f in pairs if share[t, f] > 0]


def _example(example: Example, unseen: set[str]) -> dict[str, Any]:
    image = Image.fromarray(example.image)
    factor = SMALLEST / max(image.size)
    if factor < 1 or factor >= 2:
        image = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
    return {
        "name": example.name,
        "image": _data_uri(image, "WEBP", quality=88),
        "ratio": f"{example.image.shape[1]} / {example.image.shape[0]}",
        "panels": [_panel(panel, unseen) for panel in example.panels],
    }


def _panel(panel: Panel, unseen: set[str]) -> dict[str, Any]:
    known = panel.label_map[panel.label_map < len(panel.names)]
    index, pixels = np.unique(known, return_counts=True)
    order = np.argsort(-pixels, kind="stable")
    colours = palette(len(panel.names))
    legend = [
        {"label": name, "colour": f"rgb{tuple(colour.tolist())}", "unseen": name in unseen}
        for name, colour in ((panel.names[i], colours[i]) for i in index[order].tolist())
    ]
    return {
        "title": panel.title,
        "layer": _data_uri(colour_layer(panel.label_map, len(panel.names)), "PNG", optimize=True),
        "legend": legend[:_LEGEND],
        "more": max(0, len(legend) - _LEGEND),
    }


def _run(name: str, path: Path) -> dict[str, Any]:
    run = RunDirectory(path)
    svg = curves_svg(read_records(run.metrics_file), salt=name)
    texts = {"configuration": run.config_file, "provenance": run.provenance_file}
    return {
        "curves": None if svg is None else Markup(svg),  # made by matplotlib of numbers and metric names
        "texts": {key: file.read_text(encoding="utf-8") for key, file in texts.items() if file.is_file()},
    }


def _data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
