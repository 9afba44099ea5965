"""Crops of an image addressed by (image, crop): the boxes, and the flat index of the five-crop protocol."""

from __future__ import annotations

import re
from typing import NamedTuple

CROPS = 5
CROP_PATTERN = r"#[0-9]+$"  # what makes a crop's name of an image's


class Box(NamedTuple):
    """A window of an image, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


def five_crops(height: int, width: int, ratio: float = 0.5) -> list[Box]:
    """Top left, top right, bottom left, bottom right and centre, `ratio` of each side, cut down to whole pixels.

    The centre's offset is rounded half to even, as torchvision does.
    """
    tall, wide = int(height * ratio), int(width * ratio)
    bottom, right = height - tall, width - wide
    return [
        Box(0, 0, tall, wide),
        Box(0, right, tall, wide),
        Box(bottom, 0, tall, wide),
        Box(bottom, right, tall, wide),
        Box(round(bottom / 2), round(right / 2), tall, wide),
    ]


def hashed_crops(height: int, width: int, image: int, ratio: float = 0.5) -> list[Box]:
    """Five pseudo-random windows of image number `image`: places follow from CPython's hash of a tuple of integers."""
    tall, wide = int(height * ratio), int(width * ratio)
    return [
        Box(hash((image, crop, 0)) % (height - tall), hash((image, crop, 1)) % (width - wide), tall, wide)
        for crop in range(CROPS)
    ]


def flat_index(image: int, crop: int) -> int:
    """Position of a crop in the order of the five-crop protocol."""
    return CROPS * image + crop


def image_and_crop(index: int) -> tuple[int, int]:
    """The opposite of `flat_index`."""
    return divmod(index, CROPS)


def crop_id(image_id: str, crop: int) -> str:
    """Name of a crop: "image#2"."""
    return f"{image_id}#{crop}"


def image_of_crop(name: str) -> str:
    """The image that a crop's name belongs to; an image's own name is returned as it is."""
    return re.sub(CROP_PATTERN, "", name)
