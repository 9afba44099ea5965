"""Colours and textures of the world's objects."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

FloatMap = NDArray[np.float32]

_COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 45, 45),
    "yellow": (240, 210, 40),
    "green": (60, 215, 85),
    "blue": (45, 85, 225),
    "purple": (165, 60, 200),
}
_COLOUR_JITTER = 14.0
_INK, _PAPER = 35.0, 228.0


def _tone(rng: Generator, base: float) -> NDArray[np.float32]:
    """A nearly grey colour: one brightness, a slight tint."""
    return (base + rng.normal(0, 9) + rng.normal(0, 6, 3)).astype(np.float32)


def _stripes(u: FloatMap, v: FloatMap, period: float) -> NDArray[np.bool_]:
    return np.mod(u, period) < period / 2


def _dots(u: FloatMap, v: FloatMap, period: float) -> NDArray[np.bool_]:
    du, dv = np.mod(u, period) - period / 2, np.mod(v, period) - period / 2
    return du * du + dv * dv < (0.28 * period) ** 2


def _checks(u: FloatMap, v: FloatMap, period: float) -> NDArray[np.bool_]:
    return (np.mod(u, period) < period / 2) ^ (np.mod(v, period) < period / 2)


_TEXTURES = {"striped": (_stripes, 7.5, 10.0), "dotted": (_dots, 8.0, 10.0), "checkered": (_checks, 9.5, 12.0)}


def paint_look(look: str, x: FloatMap, y: FloatMap, scale: float, rng: Generator) -> FloatMap:
    """The colours of an object's surface.

    Args:
        look: One of `ovseg_ray.data.world.classes.LOOKS`.
        x: (h, w) float32, pixel offsets from the object's centre.
        y: (h, w) float32.
        scale: Image size over 96: textures keep their size relative to the image.
        rng: Draws the jitter.

    Returns:
        (h, w, 3) float32 for textures, (1, 1, 3) for plain colours; nominal range 0..255.
    """
    if look in _COLOURS:
        base = np.asarray(_COLOURS[look], np.float32) * rng.normal(1.0, 0.06)
        return (base + rng.normal(0, _COLOUR_JITTER, 3)).astype(np.float32)[None, None]
    pattern, low, high = _TEXTURES[look]
    period = rng.uniform(low, high) * scale
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, period, 2)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = x * c + y * s + np.float32(phase[0]), y * c - x * s + np.float32(phase[1])
    ink, paper = _tone(rng, _INK), _tone(rng, _PAPER)
    return np.where(pattern(u, v, period)[..., None], ink, paper)
