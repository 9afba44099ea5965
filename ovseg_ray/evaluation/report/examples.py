"""Pictures for the report: image, truth, and predictions under one or more label lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.segmenter import Labels, Segmenter

_CANDIDATES = 6


@dataclass(frozen=True)
class Panel:
    """One label map of an image.

    Attributes:
        title: above the picture.
        label_map: (H, W) indices into `names`; higher ones are ignored pixels.
        names: all labels that were asked for, in order.
    """

    title: str
    label_map: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """One image of the grid.

    Attributes:
        name: what it is called.
        image: (H, W, 3) uint8 RGB.
        panels: its truth and predictions, in order.
    """

    name: str
    image: np.ndarray
    panels: tuple[Panel, ...]


def make_examples(
    run: str | Path, dataset: DataSet, rows: Sequence[int], others: Mapping[str, Labels] | None = None
) -> list[Example]:
    """Segment some rows of a data set by its own labels and by others.

    Args:
        run: a finished run, its `model/`, or what a demo wrote.
        dataset: with masks.
        rows: of `dataset`.
        others: title -> further labels to ask of the same images; the parents' names come by themselves where the
            data set has a hierarchy.

    Raises:
        UserError: no such run, labels that cannot be used, or an unreadable image.
    """
    segmenter = Segmenter.load(run)
    truth = dataset.require_masks()
    asked: dict[str, Labels] = {"prediction": truth.with_templates(segmenter.templates)}
    if dataset.parents:
        asked["prediction by parents' names"] = list(dict.fromkeys(dataset.parents.get(n, n) for n in truth.names))
    asked |= others or {}
    examples = []
    for row in rows:
        sample = dataset.decoded(row)
        picture = segmenter.encode(sample.image)
        panels = [] if sample.mask is None else [Panel("truth", sample.mask, truth.names)]
        for title, labels in asked.items():
            result = segmenter.segment(picture, labels)
            panels.append(Panel(title, result.label_map, result.vocabulary.names))
        examples.append(Example(sample.image_id, sample.image, tuple(panels)))
    return examples


def telling_rows(dataset: DataSet, count: int) -> list[int]:
    """Up to `count` rows worth looking at: of an even spread, those that show most held-out labels, then most labels.

    Raises:
        UserError: an unreadable image or mask.
    """
    labels = dataset.require_masks().names
    held_out = [i for i, name in enumerate(labels) if name in dataset.unseen]
    spread = min(len(dataset), count * _CANDIDATES)
    rows = [i * len(dataset) // spread for i in range(spread)]
    merit = {}
    for row in rows:
        mask = dataset.decoded(row).mask
        found = np.array([], int) if mask is None else np.unique(mask[mask < len(labels)])
        merit[row] = (np.isin(found, held_out).sum(), found.size)
    return sorted(sorted(rows, key=lambda row: merit[row], reverse=True)[:count])
