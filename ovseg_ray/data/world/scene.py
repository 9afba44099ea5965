"""One scene of the world: layout, rendering, masks and captions, all from (seed, index)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from ovseg_ray.data.world.captions import write_captions
from ovseg_ray.data.world.classes import LOOKS, SHAPES, STUFF, category_id, stuff_index, thing_index
from ovseg_ray.data.world.grounds import paint_stuff
from ovseg_ray.data.world.looks import paint_look
from ovseg_ray.data.world.regions import draw_regions
from ovseg_ray.data.world.shapes import REACH, signed_distance

_OBJECT_COUNTS = (0.50, 0.40, 0.10)
"""Probability of trying to place 1, 2, 3 objects."""
_RADIUS = (0.26, 0.38)
"""Smallest and largest object radius as a share of the image side."""
_MAX_TILT = 0.25
"""Objects lean at most this many radians: they stand upright like most things in pictures."""
_MIN_VISIBLE = 0.75
"""Share of an object that must stay visible; a placement that hides more is drawn again."""
_PLACEMENT_TRIES = 8
_NOISE = (2.0, 7.0)


@dataclass(frozen=True, slots=True)
class Instance:
    """One object.

    Attributes:
        class_index: Index into `world_classes()`.
        mask: (H, W) bool, its visible part.
    """

    class_index: int
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scene:
    """One rendered image with its ground truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        instances: The objects, back to front; masks are disjoint.
        stuff: (H, W) uint8, the stuff's COCO category id, 0 where an object is.
        captions: English descriptions.
    """

    image: NDArray[np.uint8]
    instances: tuple[Instance, ...]
    stuff: NDArray[np.uint8]
    captions: tuple[str, ...]


@dataclass(slots=True)
class _Placed:
    """An object on its way into the picture, in the window (rows, columns) that it may touch."""

    look: int
    shape: int
    window: tuple[slice, slice]
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    distance: NDArray[np.float32]
    area: int


def _draw_object(rng: Generator, size: int) -> _Placed:
    look, shape = int(rng.integers(len(LOOKS))), int(rng.integers(len(SHAPES)))
    radius = rng.uniform(*_RADIUS) * size
    centre_x, centre_y = rng.uniform(0.9 * radius, size - 0.9 * radius, 2)
    angle = rng.uniform(-_MAX_TILT, _MAX_TILT)
    reach = REACH * radius + 1
    columns = slice(max(int(centre_x - reach), 0), min(int(centre_x + reach) + 1, size))
    rows = slice(max(int(centre_y - reach), 0), min(int(centre_y + reach) + 1, size))
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None] - np.float32(centre_x)
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(centre_y)
    distance = signed_distance(SHAPES[shape], x, y, radius, angle)
    return _Placed(look, shape, (rows, columns), x, y, distance, int((distance < 0).sum()))


def _place_objects(rng: Generator, size: int) -> tuple[list[_Placed], NDArray[np.uint8]]:
    """Objects back to front, and (size, size) uint8: 0 where none is seen, k where the k-th is."""
    owner = np.zeros((size, size), np.uint8)
    placed: list[_Placed] = []
    for _ in range(1 + int(rng.choice(len(_OBJECT_COUNTS), p=_OBJECT_COUNTS))):
        for _ in range(_PLACEMENT_TRIES):
            candidate = _draw_object(rng, size)
            trial = owner.copy()
            trial[candidate.window][candidate.distance < 0] = len(placed) + 1
            visible = np.bincount(trial.ravel(), minlength=len(placed) + 2)[1:]
            if all(visible[k] >= _MIN_VISIBLE * other.area for k, other in enumerate(placed)):
                placed.append(candidate)
                owner = trial
                break
    return placed, owner


def _light(rng: Generator, size: int) -> NDArray[np.float32]:
    """(size, size, 1): overall brightness times a linear gradient across the image."""
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.18)
    slope_x, slope_y = np.float32(strength * np.cos(angle)), np.float32(strength * np.sin(angle))
    field = 1 + slope_x * ramp[None] + slope_y * ramp[:, None]
    return (field * np.float32(rng.uniform(0.85, 1.1)))[..., None]


def _paint(rng: Generator, regions: NDArray[np.uint8], names: list[int], placed: list[_Placed]) -> NDArray[np.uint8]:
    size = regions.shape[0]
    canvas = paint_stuff(STUFF[names[0]], size, rng)
    for k, name in enumerate(names[1:], start=1):
        canvas = np.where((regions == k)[..., None], paint_stuff(STUFF[name], size, rng), canvas)
    for item in placed:
        # Coverage of a pixel by the shape is well approximated by the distance to its edge.
        cover = np.clip(0.5 - item.distance, 0, 1)[..., None]
        surface = paint_look(LOOKS[item.look], item.x, item.y, size / 96, rng)
        patch = canvas[item.window]
        canvas[item.window] = patch + cover * (surface - patch)
    noise = rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(rng.uniform(*_NOISE))
    return np.clip(canvas * _light(rng, size) + noise, 0, 255).astype(np.uint8)


def render_scene(seed: int, index: int, size: int = 96) -> Scene:
    """Renders scene ``index`` of the world ``seed``; nothing else influences the result.

    Args:
        seed: The world, any non-negative integer.
        index: The scene within it, from 0.
        size: Side of the square image in pixels, at least 48.

    Returns:
        The image with masks of every object (seen or not), stuff map and captions.
    """
    layout, paint, words = (default_rng(s) for s in SeedSequence((seed, index)).spawn(3))
    regions, names = draw_regions(layout, size)
    placed, owner = _place_objects(layout, size)
    stuff_ids = np.array([category_id(stuff_index(n)) for n in names], np.uint8)
    stuff = np.where(owner == 0, stuff_ids[regions], 0).astype(np.uint8)
    instances = tuple(Instance(thing_index(p.look, p.shape), owner == k + 1) for k, p in enumerate(placed))
    captions = write_captions(words, instances, [n for k, n in enumerate(names) if (stuff == stuff_ids[k]).any()])
    return Scene(_paint(paint, regions, names, placed), instances, stuff, captions)
