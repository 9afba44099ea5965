"""Procedural textures of the world's stuff classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

FloatMap = NDArray[np.float32]


def _colour(rng: Generator, r: int, g: int, b: int) -> FloatMap:
    return (np.array([r, g, b]) * rng.normal(1.0, 0.05) + rng.normal(0, 6, 3)).astype(np.float32)


def _smooth(rng: Generator, size: int, cells: tuple[int, int]) -> FloatMap:
    """Noise of zero mean and about unit spread, smooth over size/cells pixels."""
    grid = Image.fromarray(rng.standard_normal(cells, dtype=np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


def _grain(rng: Generator, size: int) -> FloatMap:
    return rng.standard_normal((size, size), dtype=np.float32)


def _shade(colour: FloatMap, light: FloatMap, spread: float) -> FloatMap:
    """One colour, lighter and darker by ``spread`` grey levels a unit of ``light``."""
    return colour + (light * np.float32(spread))[..., None]


def _blend(weight: FloatMap, one: FloatMap, other: FloatMap) -> FloatMap:
    """``one`` where the weight is 1, ``other`` where it is 0."""
    return other + weight[..., None] * (one - other)


def _grass(rng: Generator, size: int) -> FloatMap:
    blades = _smooth(rng, size, (size // 5, size // 2))
    return _shade(_colour(rng, 58, 112, 42), blades, 22)


def _sand(rng: Generator, size: int) -> FloatMap:
    ripples = _smooth(rng, size, (9, 4))
    return _shade(_colour(rng, 212, 182, 128), ripples + _grain(rng, size), 9)


def _gravel(rng: Generator, size: int) -> FloatMap:
    cells = size // 4
    stones = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    light = np.asarray(stones.resize((size, size), Image.Resampling.BILINEAR))
    return _shade(_colour(rng, 118, 114, 112), light, 30)


def _snow(rng: Generator, size: int) -> FloatMap:
    drifts = _smooth(rng, size, (4, 5))
    return _shade(_colour(rng, 226, 234, 246), drifts, 8)


def _brick_wall(rng: Generator, size: int) -> FloatMap:
    height = rng.uniform(7, 10) * size / 96
    width = 2.1 * height
    y = np.arange(size, dtype=np.float32) + rng.uniform(0, 20)
    row = np.floor(y / height).astype(np.int32)
    x = np.arange(size, dtype=np.float32)[None] + (row % 2 * width / 2 + rng.uniform(0, 20))[:, None]
    column = np.floor(x / width).astype(np.int32)
    shades = rng.normal(0, 14, (64, 64)).astype(np.float32)[row[:, None] % 64, column % 64]
    joint = np.float32(1.5 * size / 96)
    mortar = ((y % height) < joint)[:, None] | ((x % width) < joint)
    bricks = _shade(_colour(rng, 142, 72, 54), shades, 1)
    return np.where(mortar[..., None], _colour(rng, 182, 174, 164), bricks).astype(np.float32)


def _wooden_wall(rng: Generator, size: int) -> FloatMap:
    width = rng.uniform(11, 16) * size / 96
    x = np.arange(size, dtype=np.float32) + rng.uniform(0, 20)
    plank = np.floor(x / width).astype(np.int32)
    shades = rng.normal(0, 12, 64).astype(np.float32)[plank % 64]
    fibres = _smooth(rng, size, (5, size // 2)) * 9
    wood = _shade(_colour(rng, 120, 82, 44), fibres + shades[None], 1)
    seam = (x % width) < 1.3 * size / 96
    return np.where(seam[None, :, None], wood * np.float32(0.4), wood).astype(np.float32)


def _night_sky(rng: Generator, size: int) -> FloatMap:
    sky = _shade(_colour(rng, 18, 22, 52), _smooth(rng, size, (3, 3)), 4)
    stars = rng.integers(0, size, (2, size // 2))
    sky[stars[0], stars[1]] += rng.uniform(90, 220, (size // 2, 1)).astype(np.float32)
    return sky


def _cloudy_sky(rng: Generator, size: int) -> FloatMap:
    cover = np.clip(_smooth(rng, size, (5, 4)) * np.float32(0.6) + np.float32(0.35), 0, 1)
    return _blend(cover, _colour(rng, 205, 212, 222), _colour(rng, 122, 172, 222))


_PAINTERS: dict[str, Callable[[Generator, int], FloatMap]] = {
    "grass": _grass,
    "sand": _sand,
    "gravel": _gravel,
    "snow": _snow,
    "brick wall": _brick_wall,
    "wooden wall": _wooden_wall,
    "night sky": _night_sky,
    "cloudy sky": _cloudy_sky,
}


def paint_stuff(name: str, size: int, rng: Generator) -> FloatMap:
    """A full-image texture of one stuff class.

    Args:
        name: One of `ovseg_ray.data.world.classes.STUFF`.
        size: Side of the square image in pixels.
        rng: Draws every detail.

    Returns:
        (size, size, 3) float32, nominal range 0..255.
    """
    return _PAINTERS[name](rng, size)
