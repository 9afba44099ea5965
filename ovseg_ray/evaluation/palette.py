"""Colours for labels: the same for the same index everywhere, as far apart as can be."""

from __future__ import annotations

from functools import cache

import numpy as np

# Okabe and Ito's set, told apart under the common colour blindnesses, without black and with the pale yellow last
FIRST = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
)
_DISTINCT = 256
_STEPS = 22
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = np.array([0.9505, 1.0, 1.089])


def palette(count: int) -> np.ndarray:
    """Colours of labels 0..count-1.

    A shorter palette is the beginning of a longer one, so a label keeps its colour when others are added. After 256
    colours they repeat: no eye tells more apart.

    Returns:
        (count, 3) uint8 RGB.
    """
    colours = _distinct()
    return colours[np.arange(count) % len(colours)]


@cache
def _distinct() -> np.ndarray:
    """The first colours, then each next the one farthest in CIELAB from all before it."""
    axis = np.linspace(0, 255, _STEPS).round().astype(np.uint8)
    candidates = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _lab(candidates)
    # very dark, very light and grey ones vanish on photographs
    kept = (lab[:, 0] > 25) & (lab[:, 0] < 92) & (np.hypot(lab[:, 1], lab[:, 2]) > 18)
    candidates, lab = candidates[kept], lab[kept]
    chosen = [np.array(colour, np.uint8) for colour in FIRST]
    distance = np.full(len(lab), np.inf)
    for colour in _lab(np.array(FIRST, np.uint8)):
        distance = np.minimum(distance, np.linalg.norm(lab - colour, axis=1))
    while len(chosen) < _DISTINCT:
        best = int(distance.argmax())
        chosen.append(candidates[best])
        distance = np.minimum(distance, np.linalg.norm(lab - lab[best], axis=1))
    result = np.stack(chosen)
    result.setflags(write=False)
    return result


def _lab(rgb: np.ndarray) -> np.ndarray:
    """(N, 3) uint8 sRGB to CIELAB (D65)."""
    value = rgb.astype(np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ.T / _WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
