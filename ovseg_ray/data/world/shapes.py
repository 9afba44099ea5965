"""Signed distances of the world's shapes, analytic and vectorised."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FloatMap = NDArray[np.float32]


def _circle(x: FloatMap, y: FloatMap) -> FloatMap:
    return np.hypot(x, y) - np.float32(0.92)


def _ring(x: FloatMap, y: FloatMap) -> FloatMap:
    return np.abs(np.hypot(x, y) - np.float32(0.74)) - np.float32(0.29)


def _triangle(x: FloatMap, y: FloatMap) -> FloatMap:
    # Equilateral, apothem 0.58: the greatest of the three half-plane distances.
    side = np.abs(x) * np.float32(np.sqrt(3) / 2)
    return np.maximum(side - y * np.float32(0.5), y) - np.float32(0.58)


def _bar(x: FloatMap, y: FloatMap) -> FloatMap:
    return np.maximum(np.abs(x) - np.float32(1.1), np.abs(y) - np.float32(0.42))


def _cross(x: FloatMap, y: FloatMap) -> FloatMap:
    ax, ay = np.abs(x), np.abs(y)
    long, short = np.float32(1.08), np.float32(0.32)
    return np.minimum(np.maximum(ax - long, ay - short), np.maximum(ax - short, ay - long))


_DISTANCES: dict[str, Callable[[FloatMap, FloatMap], FloatMap]] = {
    "circle": _circle,
    "ring": _ring,
    "triangle": _triangle,
    "bar": _bar,
    "cross": _cross,
}

REACH = 1.2
"""No shape of unit radius reaches further than this from its centre."""


def signed_distance(shape: str, x: FloatMap, y: FloatMap, radius: float, angle: float) -> FloatMap:
    """Distance to the outline of a shape in pixels, negative inside.

    Args:
        shape: One of `ovseg_ray.data.world.classes.SHAPES`.
        x: (h, w) float32, pixel offsets from the shape's centre.
        y: (h, w) float32.
        radius: Size in pixels.
        angle: Rotation in radians.

    Returns:
        (h, w) float32.
    """
    c, s = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)
    return _DISTANCES[shape](x * c + y * s, y * c - x * s) * np.float32(radius)
