"""The layout of a scene's background: one to three stacked regions with wavy borders."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ovseg_ray.data.world.classes import STUFF, STUFF_PARENTS

_REGION_COUNTS = (0.45, 0.40, 0.15)
"""Probability of 1, 2, 3 regions."""
_FROM_TOP = {"sky": 0, "wall": 1, "ground": 2}
"""Skies hang over walls, walls stand on grounds."""


def draw_regions(rng: Generator, size: int) -> tuple[NDArray[np.uint8], list[int]]:
    """Draws the background's layout.

    Args:
        rng: Source of all choices.
        size: Side of the image in pixels.

    Returns:
        (size, size) uint8 of region numbers 0..n-1 from the top, and the regions' indices into `STUFF`.
    """
    count = 1 + int(rng.choice(len(_REGION_COUNTS), p=_REGION_COUNTS))
    chosen = rng.choice(len(STUFF), count, replace=False)
    names = sorted((int(k) for k in chosen), key=lambda k: _FROM_TOP[STUFF_PARENTS[STUFF[k]]])
    ramp = np.linspace(0, 1, size, dtype=np.float32)
    tilt, waves, phase = rng.uniform(-0.3, 0.3), rng.uniform(0.5, 2.0), rng.uniform(0, 2 * np.pi)
    line = tilt * (ramp - 0.5) + rng.uniform(0, 0.05) * np.sin(2 * np.pi * waves * ramp + phase)
    regions = np.zeros((size, size), np.uint8)
    for k in range(1, count):
        # The borders share one line, shifted, so that they never cross.
        level = k / count + rng.uniform(-0.08, 0.08)
        regions += (ramp[:, None] > level + line[None]).astype(np.uint8)
    return regions, names
