"""Augmentation and preparation of images and masks: plain functions, every random draw from a given generator.

Images are (H, W, 3) uint8 RGB, masks (H, W) uint8 or uint16. Both come back as such until `normalise` and
`remap_mask` make tensors of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Arrays = tuple[np.ndarray, np.ndarray | None]
"""An image and its mask, if it has one."""
IGNORE = -1
"""Target of pixels without a label."""
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what Pillow turns RGB to grey with

_RGB_TO_YIQ = np.array([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)


def random_scale_crop(
    image: np.ndarray,
    mask: np.ndarray | None,
    rng: np.random.Generator,
    *,
    scale: tuple[float, float],
    crop: tuple[int, int],
    pad_value: Sequence[int] = (0, 0, 0),
    ignore_index: int = 255,
) -> Arrays:
    """A random window of a randomly scaled image; only the window is resized.

    Image (bilinear, antialiased) and mask (nearest) are sampled on the same grid. Where the scaled image is smaller
    than the window, it lies at the top left and the rest is padded.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W), or None.
        rng: source of three draws: scale, top, left.
        scale: range of the factor on both sides, drawn uniformly.
        crop: (h, w) of the result.
        pad_value: colour of the padding.
        ignore_index: the mask's padding.

    Returns:
        (h, w, 3) uint8, and (h, w) of the mask's type or None.
    """
    factor, *places = rng.uniform((scale[0], 0.0, 0.0), (scale[1], 1.0, 1.0))
    starts, extents, sizes = [], [], []
    for length, limit, place in zip(image.shape[:2], crop, places, strict=True):
        scaled = max(1, round(length * factor))
        size = min(limit, scaled)
        extent = length * size / scaled  # exactly the part of the source that `size` pixels of the scaled one show
        starts.append(place * (length - extent))
        extents.append(extent)
        sizes.append(size)
    (top, left), (tall, wide), (height, width) = starts, extents, sizes
    box = (left, top, min(left + wide, image.shape[1]), min(top + tall, image.shape[0]))
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box))
    sampled = None
    if mask is not None:
        rows = _nearest(top, tall, height, mask.shape[0])
        columns = _nearest(left, wide, width, mask.shape[1])
        sampled = mask[rows].take(columns, axis=1)
    return _padded(resized, crop, pad_value), None if sampled is None else _padded(sampled, crop, ignore_index)


def horizontal_flip(image: np.ndarray, mask: np.ndarray | None, rng: np.random.Generator, p: float = 0.5) -> Arrays:
    """Image and mask mirrored left to right with probability `p`; one draw. Views, not copies."""
    if rng.random() >= p:
        return image, mask
    return image[:, ::-1], None if mask is None else mask[:, ::-1]


def colour_jitter(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> np.ndarray:
    """Brightness, contrast, saturation and hue changed at random.

    All four are affine in RGB, so that they are one matrix and one pass over the image: values are clipped once, at
    the end, and hue is turned in the chroma plane of YIQ, which leaves luma as it is.

    Args:
        image: (H, W, 3) uint8.
        rng: source of four draws, whatever the strengths.
        brightness: factor within 1 ± this.
        contrast: factor within 1 ± this on the distance from the mean luma.
        saturation: factor within 1 ± this on the distance from each pixel's luma.
        hue: turn within ± this, in full circles (0.5 reaches every hue).

    Returns:
        (H, W, 3) uint8.
    """
    draws = rng.uniform(-1.0, 1.0, 4)
    if not (brightness or contrast or saturation or hue):
        return image
    light, spread, colour = np.maximum(1.0 + draws[:3] * (brightness, contrast, saturation), 0.0)
    angle = 2.0 * np.pi * hue * draws[3]
    cos, sin = np.cos(angle) * colour, np.sin(angle) * colour
    chroma = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    linear = light * spread * (_YIQ_TO_RGB @ chroma @ _RGB_TO_YIQ)
    # every 4th pixel in both directions tells the mean as well as all of them
    mean_luma = float(image[::4, ::4].mean((0, 1)) @ LUMA)
    shift = light * (1.0 - spread) * mean_luma
    matrix = np.column_stack([linear, np.full(3, shift)])
    return np.array(Image.fromarray(image).convert("RGB", tuple(matrix.ravel().tolist())))


def resize_exact(image: np.ndarray, mask: np.ndarray | None, size: tuple[int, int]) -> Arrays:
    """Image (bilinear, antialiased) and mask (nearest) at `size` (h, w), the aspect not kept."""
    if image.shape[:2] == tuple(size):
        return image, mask
    resized = np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    if mask is None:
        return resized, None
    rows, columns = (_nearest(0.0, length, n, length) for length, n in zip(mask.shape, size, strict=True))
    return resized, mask[rows].take(columns, axis=1)


def resize_short(image: np.ndarray, mask: np.ndarray | None, side: int) -> Arrays:
    """As `resize_exact`, the shorter side to `side` pixels and the aspect kept."""
    return resize_exact(image, mask, _scaled(image, side / min(image.shape[:2])))


def resize_long(image: np.ndarray, mask: np.ndarray | None, side: int) -> Arrays:
    """As `resize_exact`, the longer side to `side` pixels and the aspect kept (at least 1 pixel)."""
    return resize_exact(image, mask, _scaled(image, side / max(image.shape[:2])))


def resize_nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) mask at (h, w): pixel i is that of floor(i × H / h), as the zero-shot protocols resize masks."""
    rows, columns = (np.arange(n) * length // n for length, n in zip(mask.shape, size, strict=True))
    return mask[rows[:, None], columns]


def long_side_size(image: tuple[int, int], long_side: int) -> tuple[int, int]:
    """(h, w) of an image of (H, W) with that long side, the short one rounded half up, at least 1."""
    height, width = image
    if height > width:
        return long_side, max(1, int(1.0 * width * long_side / height + 0.5))
    return max(1, int(1.0 * height * long_side / width + 0.5)), long_side


def pad_to_multiple(
    image: np.ndarray,
    mask: np.ndarray | None,
    multiple: int,
    *,
    pad_value: Sequence[int] = (0, 0, 0),
    ignore_index: int = 255,
) -> Arrays:
    """Image and mask padded at the right and the bottom until both sides are multiples of `multiple`."""
    size = tuple(-(-length // multiple) * multiple for length in image.shape[:2])
    return _padded(image, size, pad_value), None if mask is None else _padded(mask, size, ignore_index)


def normalise(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(H, W, 3) uint8 as a contiguous (3, H, W) float32 tensor, `(image / 255 - mean) / std` for each channel."""
    # a copy: numpy calls a mirrored column of one pixel contiguous, torch refuses its negative stride
    planes = torch.from_numpy(image.transpose(2, 0, 1).copy()).float()
    deviation = torch.tensor(std, dtype=torch.float32).reshape(3, 1, 1)
    centre = torch.tensor(mean, dtype=torch.float32).reshape(3, 1, 1)
    return planes.mul_(1.0 / (255.0 * deviation)).sub_(centre / deviation)


def remap_mask(mask: np.ndarray, targets: Sequence[int] | np.ndarray) -> Tensor:
    """Class indices as training targets.

    Args:
        mask: (H, W) uint8 or uint16 class indices, anything past the table ignored.
        targets: (C,) target of each class, -1 to ignore it.

    Returns:
        (H, W) int64, contiguous, -1 where ignored.
    """
    table = np.full(np.iinfo(mask.dtype).max + 1, IGNORE, np.int64)
    table[: len(targets)] = targets
    return torch.from_numpy(table[np.ascontiguousarray(mask)])


def _nearest(start: float, extent: float, count: int, length: int) -> np.ndarray:
    """Source index of each of `count` pixel centres spread over [start, start + extent)."""
    centres = start + (np.arange(count) + 0.5) * (extent / count)
    return np.minimum(centres.astype(np.int64), length - 1)


def _scaled(image: np.ndarray, factor: float) -> tuple[int, int]:
    height, width = image.shape[:2]
    return max(1, round(height * factor)), max(1, round(width * factor))


def _padded(array: np.ndarray, size: Sequence[int], value: Sequence[int] | int) -> np.ndarray:
    if array.shape[:2] == tuple(size):
        return array
    padded = np.empty((*size, *array.shape[2:]), array.dtype)
    padded[:] = value
    padded[: array.shape[0], : array.shape[1]] = array
    return padded
