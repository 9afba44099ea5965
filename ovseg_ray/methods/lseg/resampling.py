"""Bilinear sampling of a score grid at pixel centres, as positions along one axis: any slice can be computed alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """Where each output position lies between two input positions.

    Attributes:
        low: (n,) int64 input index on one side.
        high: (n,) int64 input index on the other side.
        fraction: (n,) float32, weight of `high`.
        aligned_to: where the positions are the first n of an interpolation with aligned corners, its length.
    """

    low: Tensor
    high: Tensor
    fraction: Tensor
    aligned_to: int | None = None

    @classmethod
    def at(cls, positions: Tensor, length: int) -> Axis:
        """Of float64 `positions` within 0..length-1."""
        low = positions.floor().clamp(0, length - 1).long()
        high = (low + 1).clamp_max(length - 1)
        return cls(low, high, (positions - low).float())

    @classmethod
    def aligned(cls, source: int, target: int, device: torch.device | None = None) -> Axis:
        """As interpolation with aligned corners from `source` to `target` points."""
        positions = torch.arange(target, dtype=torch.float64, device=device)
        return replace(cls.at(positions * ((source - 1) / max(target - 1, 1)), source), aligned_to=target)

    @classmethod
    def to_pixels(cls, source: int, padded: int, inner: int, target: int, device: torch.device | None = None) -> Axis:
        """From a grid over the padded input to the pixels of a picture.

        Args:
            source: points of the grid; its corners are those of the padded input.
            padded: pixels of the padded input.
            inner: of them, those of the unpadded input (the rest is cut off).
            target: pixels of the picture, which the unpadded input is a resized copy of.
            device: of the result.
        """
        if target == inner:
            return replace(cls.aligned(source, padded, device).part(0, target), aligned_to=padded)
        pixels = torch.arange(target, dtype=torch.float64, device=device)
        pixels = ((pixels + 0.5) * (inner / target) - 0.5).clamp(0, inner - 1)
        return cls.at(pixels * ((source - 1) / max(padded - 1, 1)), source)

    def part(self, start: int, stop: int) -> Axis:
        """Output positions start..stop-1."""
        return Axis(self.low[start:stop], self.high[start:stop], self.fraction[start:stop])

    def span(self) -> tuple[int, int]:
        """First and one past the last input position that is needed."""
        return int(self.low[0]), int(self.high[-1]) + 1

    def shifted(self, by: int) -> Axis:
        """For an input whose first `by` positions were cut off."""
        return Axis(self.low - by, self.high - by, self.fraction)

    def sample(self, x: Tensor, dim: int) -> Tensor:
        """Interpolate `x` along `dim`."""
        shape = [1] * x.ndim
        shape[dim] = -1
        return torch.lerp(x.index_select(dim, self.low), x.index_select(dim, self.high), self.fraction.view(shape))

    def matrix(self, length: int) -> Tensor:
        """(n, length) float32: the interpolation of `length` input positions as a matrix, two numbers a row."""
        weights = self.fraction.new_zeros(len(self.low), length)
        weights.scatter_(1, self.low[:, None], 1 - self.fraction[:, None])
        return weights.scatter_add_(1, self.high[:, None], self.fraction[:, None])

    def sample_first(self, x: Tensor) -> Tensor:
        """Interpolate the first axis of (w, h, K); much the fastest where `aligned_to` is known."""
        if self.aligned_to is None:
            return self.sample(x, 0)
        # labels last is what torch calls channels last: the one layout in which this runs at the speed of memory
        # (its strides must say so, those of the batch axis included)
        image, size = x.unsqueeze(0).permute(0, 3, 1, 2), (self.aligned_to, x.shape[1])
        tall = F.interpolate(image, size=size, mode="bilinear", align_corners=True)
        return tall[0].permute(1, 2, 0)[: len(self.low)]


def upsample_scores(scores: Tensor, inner: tuple[int, int], size: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    """Dense scores at the pixels of a picture.

    Args:
        scores: (B, K, h, w) over the padded input.
        inner: (H, W) of the unpadded input.
        size: (H, W) of the picture.
        padded: (H, W) of the padded input.

    Returns:
        (B, K, *size): with `inner` equal to `size`, aligned-corner interpolation to `padded`, cut to `inner`.
    """
    if inner == size:
        full = F.interpolate(scores, size=padded, mode="bilinear", align_corners=True)
        return full[..., : inner[0], : inner[1]]
    for dim, (source, whole, kept, target) in enumerate(
        zip(scores.shape[2:], padded, inner, size, strict=True), start=2
    ):
        scores = Axis.to_pixels(source, whole, kept, target, scores.device).sample(scores, dim)
    return scores
