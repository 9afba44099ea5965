"""Controls: the same images and model under labels that must score badly, or more coarsely."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.scoring import LabelSpace
from ovseg_ray.evaluation.spaces import Embed, label_space
from ovseg_ray.vocabulary import Vocabulary


def shuffled(space: LabelSpace, seed: int = 0) -> LabelSpace:
    """The text embeddings dealt out anew among the labels, none to its own: must fall to chance.

    Sattolo's algorithm: one cycle through all labels, so there is no fixed point.

    Raises:
        UserError: a single label, which cannot be shuffled.
    """
    n = len(space.vocabulary)
    if n < 2:
        raise UserError(f"label list '{space.name}': one label cannot be shuffled; give two or more")
    rng = np.random.default_rng(seed)
    order = np.arange(n)
    for i in range(n - 1, 0, -1):
        j = int(rng.integers(0, i))
        order[[i, j]] = order[[j, i]]
    return replace(space, name="shuffled", text=space.text[order.tolist()])


def parents_space(dataset: DataSet, embed: Embed, templates: tuple[str, ...]) -> LabelSpace:
    """The parents' names as labels, each leaf's pixels scored as its parent; a leaf without one keeps its name.

    Raises:
        UserError: the data set has no hierarchy.
    """
    if not dataset.parents:
        raise UserError(f"{dataset.path}: has no parents of its labels; leave the parents control out")
    names = dict.fromkeys(dataset.parents.get(name, name) for name in dataset.require_masks().names)
    return label_space("parents", dataset, Vocabulary.of(names, templates, "parents"), embed)
