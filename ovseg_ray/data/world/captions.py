"""English captions of a scene, from templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.random import Generator

from ovseg_ray.data.world.classes import (
    FAMILIES,
    LOOKS,
    SHAPES,
    STUFF,
    STUFF_PARENTS,
    WorldClass,
    world_classes,
)

if TYPE_CHECKING:
    from ovseg_ray.data.world.scene import Instance

_T = TypeVar("_T")

_OPENINGS = ("", "", "", "a photo of ", "a picture of ", "there is ", "a scene with ")
_PLACES = {
    "ground": ("on {}", "lying on {}", "over {}"),
    "wall": ("in front of {}", "before {}", "against {}"),
    "sky": ("in {}", "under {}", "against {}"),
}
_COUNTED = {"grass", "sand", "gravel", "snow"}
"""Stuff names that take no article."""


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _stuff(name: str) -> str:
    return name if name in _COUNTED else _a(name)


def _pick(rng: Generator, options: Sequence[_T]) -> _T:
    return options[int(rng.integers(len(options)))]


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _place(rng: Generator, stuff: str, general: bool = False) -> str:
    """ "on grass", or with ``general`` the parent: "on the ground"."""
    parent = STUFF_PARENTS[stuff]
    return _pick(rng, _PLACES[parent]).format(f"the {parent}" if general else _stuff(stuff))


def _relation(rng: Generator, one: Instance, other: Instance) -> str:
    """The relation of two objects by their visible centres."""
    (y1, x1), (y2, x2) = (np.argwhere(i.mask).mean(axis=0) for i in (one, other))
    if abs(x1 - x2) > abs(y1 - y2):
        return _pick(rng, ("left of", "to the left of")) if x1 < x2 else _pick(rng, ("right of", "to the right of"))
    return _pick(rng, ("above", "higher than")) if y1 < y2 else _pick(rng, ("below", "lower than"))


def _parents(rng: Generator, things: Sequence[WorldClass], stuff: Sequence[str]) -> str:
    """Names parents instead of leaves: all families and grounds, or one object with its look."""
    if rng.random() < 0.4:
        item = _pick(rng, things)
        return f"{_a(f'{LOOKS[item.look]} {item.parent}')} {_place(rng, _pick(rng, stuff), general=True)}"
    families = [_a(f) for f in dict.fromkeys(t.parent for t in things)]
    grounds = ["the " + p for p in dict.fromkeys(STUFF_PARENTS[s] for s in stuff)]
    return _list([*families, *grounds])


def _part(rng: Generator, things: Sequence[WorldClass], stuff: Sequence[str]) -> str:
    """A caption about one aspect: all shapes, all looks, the background, or what kind a leaf is of."""
    kind = rng.choice(("shapes", "looks", "stuff", "shape kind", "stuff kind"), p=(0.6, 0.05, 0.05, 0.2, 0.1))
    if kind == "shapes":
        return _list([_a(SHAPES[t.shape]) for t in things])
    if kind == "looks":
        return _list([f"something {LOOKS[t.look]}" for t in things])
    if kind == "stuff":
        return _list([_stuff(s) for s in stuff])
    if kind == "shape kind":
        shape = SHAPES[_pick(rng, things).shape]
        return f"{_a(shape)}, which is {_a(FAMILIES[shape])}"
    ground = _pick(rng, stuff)
    return f"{_stuff(ground)}, which is a kind of {STUFF_PARENTS[ground]}"


def write_captions(rng: Generator, instances: Sequence[Instance], stuff: Sequence[int]) -> tuple[str, ...]:
    """Five captions: one object, all objects, parents, a relation (or one object and its place), one aspect.

    Args:
        rng: Draws templates and subjects.
        instances: The scene's objects, at least one.
        stuff: Indices into `STUFF` of the regions in sight.

    Returns:
        Five lower-case captions; the second names every object.
    """
    things = [world_classes()[i.class_index] for i in instances]
    names, grounds = [_a(t.name) for t in things], [STUFF[k] for k in stuff]
    everything = [*names, *(_stuff(g) for g in grounds if rng.random() < 0.4)]
    rng.shuffle(everything)
    captions = [
        _pick(rng, _OPENINGS) + _pick(rng, names),
        _pick(rng, _OPENINGS) + _list(everything),
        _parents(rng, things, grounds),
    ]
    if len(things) > 1:
        a, b = (int(k) for k in rng.permutation(len(things))[:2])
        captions.append(f"{names[a]} {_relation(rng, instances[a], instances[b])} {names[b]}")
    else:
        captions.append(f"{_pick(rng, _OPENINGS)}{names[0]} {_place(rng, _pick(rng, grounds))}")
    captions.append(_part(rng, things, grounds))
    return tuple(captions)
