"""Masks as maps of class indices: reading PNGs, translating stored values, refusing what does not fit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from ovseg_ray.data.images import DAMAGE, read_bytes, undecoded
from ovseg_ray.data.sample import IGNORE_8, IGNORE_16
from ovseg_ray.errors import UserError


def ignore_value(num_classes: int) -> int:
    """What unlabelled pixels hold in maps of `num_classes` classes: 255 while they fit into 8 bits, else 65535.

    Raises:
        UserError: more classes than 16 bits can tell apart.
    """
    if num_classes > IGNORE_16:
        raise UserError(f"label set: {num_classes} classes, at most {IGNORE_16} fit into a 16-bit mask; drop some")
    return IGNORE_8 if num_classes <= IGNORE_8 else IGNORE_16


def ignore_map(height: int, width: int, num_classes: int) -> np.ndarray:
    """(height, width) map without any label: uint8, or uint16 for more than 255 classes."""
    ignore = ignore_value(num_classes)
    return np.full((height, width), ignore, np.uint8 if ignore == IGNORE_8 else np.uint16)


def read_index_png(path: str, height: int, width: int) -> np.ndarray:
    """Stored values of an index PNG: grey, palette (the indices, not the colours) or bilevel.

    Args:
        path: of the mask.
        height: of its image, pixels.
        width: of its image, pixels.

    Returns:
        (height, width) uint8 or uint16.

    Raises:
        UserError: unreadable, coloured, or of another size than its image.
    """
    with undecoded(read_bytes(path), path) as mask:
        if mask.mode not in ("L", "P", "1") and not mask.mode.startswith("I;16"):
            raise UserError(f"{path}: mask is {mask.mode}, must hold one class index a pixel; store 8- or 16-bit grey")
        check_size(path, (mask.height, mask.width), (height, width))
        try:
            return _values(mask)
        except DAMAGE as error:
            raise UserError(f"{path}: damaged mask ({error}); replace it") from error


def check_size(name: str, found: tuple[int, int], image: tuple[int, int]) -> None:
    """See that a mask is as large as its image.

    Args:
        name: what the error calls the mask.
        found: (height, width) of the mask.
        image: (height, width) of the image.

    Raises:
        UserError: it is not.
    """
    if found != image:
        raise UserError(
            f"{name}: mask is {found[1]} x {found[0]} but its image is {image[1]} x {image[0]} (width x height); "
            "resize neither, find the pair that belongs together"
        )


def translate(values: np.ndarray, table: Mapping[int, int], ignored: frozenset[int], n: int, name: str) -> np.ndarray:
    """Stored values as class indices.

    Args:
        values: (H, W) uint8 or uint16.
        table: class index of each stored value that means a class.
        ignored: stored values that mean "no label".
        n: number of classes.
        name: what errors call the mask.

    Returns:
        (H, W) uint8 or uint16 with `ignore_value(n)` where ignored.

    Raises:
        UserError: a value that is neither.
    """
    ignore = ignore_value(n)
    size = np.iinfo(values.dtype).max + 1
    lookup = np.full(size, ignore, np.uint8 if ignore == IGNORE_8 else np.uint16)
    outside = np.ones(size, bool)
    outside[[value for value in ignored if value < size]] = False
    for value, index in table.items():
        if value < size:
            lookup[value], outside[value] = index, False
    if outside[values].any():
        wrong = values[outside[values]].min()
        raise UserError(
            f"{name}: class id {wrong} is outside the label set of {n} classes; "
            "add the class to classes.json, or paint such pixels with the ignored value"
        )
    return lookup[values]


def _values(mask: Image.Image) -> np.ndarray:
    values = np.array(mask)
    return values.astype(np.uint16) if values.dtype.itemsize == 2 else values.astype(np.uint8, copy=False)
