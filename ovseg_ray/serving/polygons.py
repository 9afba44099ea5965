"""Outlines of masks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from contourpy import FillType, contour_generator

from ovseg_ray.serving.api import Polygon


def trace(mask: np.ndarray) -> list[Polygon]:
    """Connected parts of a mask as polygons.

    The centre of every pixel of the mask lies inside, that of every other pixel outside: filling by pixel centres
    gives the same mask again. Corners are cut at the middle of pixel edges.

    Args:
        mask: (H, W) bool.

    Returns:
        For each part its outline and then its holes; a ring is flat [x, y, x, y, …], without a repeated last point,
        with (0, 0) the top left corner of the top left pixel.
    """
    inside = np.pad(mask, 1).astype(np.float64)
    points, offsets = contour_generator(z=inside, fill_type=FillType.OuterOffset).filled(0.5, 2.0)
    return [
        [_ring(part[start:stop]) for start, stop in pairwise(rings)]
        for part, rings in zip(points, offsets, strict=True)
    ]


def _ring(points: np.ndarray) -> list[float]:
    points = points[:-1]  # contourpy closes rings
    # a point between two steps in the same direction says nothing
    steps = np.sign(points - np.roll(points, 1, axis=0))
    corners = (steps != np.roll(steps, -1, axis=0)).any(axis=1)
    # padding moved everything by one, and values of pixels stand at their centres
    return (points[corners] - 0.5).ravel().tolist()
