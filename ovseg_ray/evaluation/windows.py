"""Copies of an image at several sizes and the overlapping windows that a network looks at them through."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg_ray.data.transforms import long_side_size

STRIDE = 2 / 3  # of a window


@dataclass(frozen=True)
class Window:
    """A part of a scaled image, in its pixels: rows top..bottom-1, columns left..right-1."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.bottom - self.top, self.right - self.left

    def of(self, x: Tensor) -> Tensor:
        """The part of (…, H, W), a view."""
        return x[..., self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class Layer:
    """An image at one scale.

    Attributes:
        size: (h, w) of the scaled image.
        canvas: (h, w) with its padding at the right and the bottom.
        windows: row by row.
    """

    size: tuple[int, int]
    canvas: tuple[int, int]
    windows: tuple[Window, ...]

    @classmethod
    def of(cls, image: tuple[int, int], long_side: int, crop: int, *, padded: bool) -> Layer:
        """The layout for an image resized to a long side.

        Windows of `crop` x `crop` start every floor(2/3 crop) pixels until one reaches the border.

        Args:
            image: (H, W).
            long_side: of the scaled image.
            crop: side of a window.
            padded: whether sides shorter than a window are padded to it and the last window is cut off at the border,
                as the original does; else windows are as small as the image, and the last one is moved back into it.
        """
        size = long_side_size(image, long_side)
        canvas = (max(size[0], crop), max(size[1], crop)) if padded else size
        rows, columns = ([_span(start, side, crop, padded) for start in _starts(side, crop)] for side in canvas)
        return cls(size, canvas, tuple(Window(a, c, b, d) for a, b in rows for c, d in columns))

    def counts(self) -> Tensor:
        """(h, w) of the canvas: how many windows see each pixel."""
        counts = torch.zeros(self.canvas)
        for window in self.windows:
            window.of(counts).add_(1)
        return counts


def _starts(side: int, crop: int) -> range:
    stride = max(1, int(crop * STRIDE))
    count = math.ceil(max(side - crop, 0) / stride) + 1
    return range(0, count * stride, stride)


def _span(start: int, side: int, crop: int, padded: bool) -> tuple[int, int]:
    if not padded:
        start = min(start, max(side - crop, 0))
    return start, min(start + crop, side)
