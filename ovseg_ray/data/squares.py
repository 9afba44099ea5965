"""Fixed preprocessing: shorter side to a size, then the centre square. Nothing random, so features can be stored."""

from __future__ import annotations

import io
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field

from ovseg_ray.config import Config
from ovseg_ray.data.crops import five_crops

Resampling = Literal["nearest", "bilinear"]
_FILTERS = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}


class Square(NamedTuple):
    """`image` (S, S, 3) uint8 and `mask` (S, S) of the sample's own dtype, or None."""

    image: np.ndarray
    mask: np.ndarray | None


class SquareConfig(Config):
    """How an image becomes squares of one size."""

    size: int = Field(224, ge=1, description="pixels of a side")
    resampling: Resampling = Field("bilinear", description="of images; the original's nearest aliases")
    crops: Literal["none", "five"] = Field("none", description="five: corners and centre, half of each side, instead")
    jpeg_quality: int | None = Field(
        None, ge=1, le=100, description="compress crops in between; the original's stored crops have 75"
    )

    @property
    def squares(self) -> int:
        """Squares of an image."""
        return 5 if self.crops == "five" else 1


def squares_of(image: np.ndarray, mask: np.ndarray | None, config: SquareConfig) -> list[Square]:
    """The squares of a (H, W, 3) uint8 image and its (H, W) mask."""
    if config.crops == "none":
        boxes: list[tuple[slice, slice]] = [(slice(None), slice(None))]
    else:
        # a picture of one pixel a side has no half
        found = five_crops(max(image.shape[0], 2), max(image.shape[1], 2))
        boxes = [(slice(b.top, b.top + b.height), slice(b.left, b.left + b.width)) for b in found]
    made = []
    for box in boxes:
        part = image[box]
        if config.crops != "none" and config.jpeg_quality is not None:
            part = _compressed(part, config.jpeg_quality)
        label = None if mask is None else square(np.ascontiguousarray(mask[box]), config.size, "nearest")
        made.append(Square(square(np.ascontiguousarray(part), config.size, config.resampling), label))
    return made


def _compressed(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


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
