"""The class table of the generated world: looks x shapes, stuff, parents and the unseen compositions.

The table depends on nothing but this file, so every seed and every size share one vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

LOOKS: tuple[str, ...] = ("red", "yellow", "green", "blue", "purple", "striped", "dotted", "checkered")
"""What an object looks like: five plain colours, three textures."""

FAMILIES: dict[str, str] = {
    "circle": "round shape",
    "ring": "round shape",
    "triangle": "angular shape",
    "bar": "angular shape",
    "cross": "angular shape",
}
"""Shape -> its family, the parent of every composition of that shape."""

SHAPES: tuple[str, ...] = tuple(FAMILIES)

STUFF_PARENTS: dict[str, str] = {
    "grass": "ground",
    "sand": "ground",
    "gravel": "ground",
    "snow": "ground",
    "brick wall": "wall",
    "wooden wall": "wall",
    "night sky": "sky",
    "cloudy sky": "sky",
}
"""Stuff -> its parent."""

STUFF: tuple[str, ...] = tuple(STUFF_PARENTS)

IGNORE_INDEX = 255


@dataclass(frozen=True, slots=True)
class WorldClass:
    """One leaf class.

    Attributes:
        name: What captions call it, such as ``"red circle"`` or ``"brick wall"``.
        kind: ``"thing"`` (instances with masks) or ``"stuff"`` (background regions).
        parent: The name of its only parent, COCO's ``supercategory``.
        look: Index into `LOOKS` (things), -1 for stuff.
        shape: Index into `SHAPES` (things); index into `STUFF` for stuff.
        unseen: True if training images never carry a mask of it.
    """

    name: str
    kind: Literal["thing", "stuff"]
    parent: str
    look: int
    shape: int
    unseen: bool


def is_unseen(look: int, shape: int) -> bool:
    """Whether a composition is held out: one shape a look, walking diagonally through the table.

    Each look so keeps all its other shapes and each shape most looks, which is what a model needs to
    put the held-out pairs together.
    """
    return shape == look % len(SHAPES)


@cache
def world_classes() -> tuple[WorldClass, ...]:
    """All leaf classes in index order: things (look-major), then stuff."""
    things = [
        WorldClass(f"{look} {shape}", "thing", FAMILIES[shape], i, j, is_unseen(i, j))
        for i, look in enumerate(LOOKS)
        for j, shape in enumerate(SHAPES)
    ]
    stuff = [WorldClass(name, "stuff", STUFF_PARENTS[name], -1, k, False) for k, name in enumerate(STUFF)]
    return (*things, *stuff)


def thing_index(look: int, shape: int) -> int:
    """The class index of a composition."""
    return look * len(SHAPES) + shape


def stuff_index(stuff: int) -> int:
    """The class index of ``STUFF[stuff]``."""
    return len(LOOKS) * len(SHAPES) + stuff


def category_id(class_index: int) -> int:
    """The COCO category id of a class; ids start at 1 because 0 means "none" in a pixel map."""
    return class_index + 1


def parent_names() -> tuple[str, ...]:
    """The parents in order of first appearance."""
    return tuple(dict.fromkeys(c.parent for c in world_classes()))
