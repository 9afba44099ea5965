"""Fixed preprocessing: shorter side to a size, then the centre square. Nothing random, so features can be stored."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

Resampling = Literal["nearest", "bilinear"]
_FILTERS = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}


def resize_shorter(pixels: np.ndarray, size: int, resampling: Resampling) -> np.ndarray:
    """(H, W, 3) or (H, W) uint8 with its shorter side resized to `size`, the longer one cut down to whole pixels."""
    height, width = pixels.shape[:2]
    new = (size, int(size * width / height)) if height < width else (int(size * height / width), size)
    if new == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((new[1], new[0]), _FILTERS[resampling]))


def centre_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """The middle `size` x `size` pixels of (H, W, ...); offsets rounded half to even, as torchvision does."""
    top, left = (round((length - size) / 2.0) for length in pixels.shape[:2])
    return pixels[top : top + size, left : left + size]


def square(pixels: np.ndarray, size: int, resampling: Resampling = "bilinear") -> np.ndarray:
    """(H, W, 3) uint8 -> (size, size, 3). The original resizes images by "nearest", which aliases; labels must be."""
    return centre_square(resize_shorter(pixels, size, resampling), size)


def squeezed(pixels: np.ndarray, size: int, resampling: Resampling = "bilinear") -> np.ndarray:
    """(H, W, 3) or (H, W) uint8 resized to size x size, the aspect not kept."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), _FILTERS[resampling]))
