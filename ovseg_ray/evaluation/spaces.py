"""From a data set and a vocabulary to the label space that predictions are scored in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError, did_you_mean
from ovseg_ray.evaluation.confusion import IGNORE
from ovseg_ray.evaluation.scoring import LabelSpace
from ovseg_ray.vocabulary import Vocabulary

Embed: TypeAlias = Callable[[Vocabulary], torch.Tensor]
"""Vocabulary of N labels -> (N, D) float32 unit vectors: `LabelEmbeddings(encoder).embed`."""


def label_space(name: str, dataset: DataSet, vocabulary: Vocabulary, embed: Embed) -> LabelSpace:
    """Predict with `vocabulary`; read the truth of `dataset` in it by name.

    A class of the data set is scored as the label of its own name, else as the label named like its parent; the
    pixels of a class that neither names are ignored. A label that names no class is a distractor: it may be
    predicted, and its pixels are errors. (To ask for a class by other words, keep its name and give the words as
    synonyms: `road: [street, tarmac]`.) Names are compared without regard to case and outer blanks.

    Args:
        name: of the space, in results.
        dataset: with masks.
        vocabulary: labels to predict with.
        embed: its text tower.

    Raises:
        UserError: no label names a class or a parent.
    """
    classes = dataset.require_masks().names
    labels = {_key(label): i for i, label in enumerate(vocabulary.names)}
    parents = {_key(leaf): _key(parent) for leaf, parent in dataset.parents.items()}
    keys = [_key(c) for c in classes]
    truth_map = np.array([labels.get(key, labels.get(parents.get(key, ""), IGNORE)) for key in keys])
    if (truth_map == IGNORE).all():
        asked = vocabulary.names[0]
        hint = did_you_mean(asked, classes, f"they are {', '.join(classes[:8])}…")
        raise UserError(f"labels '{vocabulary.name}': none, such as '{asked}', names a class of the data set; {hint}")
    identity = np.array_equal(truth_map, np.arange(len(vocabulary)))
    return LabelSpace(name, vocabulary, torch.as_tensor(embed(vocabulary)), None if identity else truth_map)


def unseen_labels(space: LabelSpace, dataset: DataSet, unseen: tuple[str, ...]) -> list[int]:
    """Labels of a space for which every class scored as it is held out."""
    classes = dataset.require_masks().names
    truth_map = np.arange(len(classes)) if space.truth_map is None else space.truth_map
    held_out = {_key(name) for name in unseen}
    trained = {int(label) for label, c in zip(truth_map, classes, strict=True) if _key(c) not in held_out}
    return sorted({int(label) for label in truth_map} - trained - {IGNORE})


def without_truth(space: LabelSpace, dataset: DataSet, hidden: tuple[str, ...]) -> LabelSpace:
    """The same space with the pixels of some classes ignored; their labels still compete."""
    classes = dataset.require_masks().names
    truth_map = np.arange(len(classes)) if space.truth_map is None else space.truth_map
    keys = {_key(name) for name in hidden}
    ignored = np.array([_key(name) in keys for name in classes])
    return replace(space, truth_map=np.where(ignored, IGNORE, truth_map))


def _key(name: str) -> str:
    return name.strip().casefold()
