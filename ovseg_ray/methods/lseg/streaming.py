"""Label map and confidence at full size, in chunks of labels and rows.

Argmax and softmax need no more than a running maximum and a running sum, so the score of a label at a pixel is
computed, used and forgotten. Labels lie on the last axis: there torch interpolates and reduces several times faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ray.methods.base import Segmentation
from ovseg_ray.methods.distinct import distinct_rows
from ovseg_ray.methods.lseg.head_blocks import HeadBlock
from ovseg_ray.methods.lseg.resampling import Axis
from ovseg_ray.methods.running import RunningArgmax

LABELS_AT_ONCE = 64
SCORES_AT_ONCE = 500_000  # elements of one full-size chunk: 2 MB in float32, near the cache
_FAR = 1e30  # turns the smallest difference of two scores into more than a position in a chunk


@dataclass(frozen=True)
class ScoreGrid:
    """Scores of one image at half resolution, made for any rows and labels when asked.

    Attributes:
        features: (h, w, D) float32, contiguous: the decoder's map.
        inverse_norm: (h2, w2) float32 at half resolution of the padded input.
        block: spatial regularisation, if any.
        half: round scores to half precision before the block.
    """

    features: Tensor
    inverse_norm: Tensor
    block: HeadBlock | None
    half: bool = False

    def raw(self, rows: tuple[int, int], weight: Tensor, bias: Tensor) -> Tensor:
        """Scores before the head block.

        Args:
            rows: first and one past the last half-resolution row.
            weight: (k, D) label projection.
            bias: (k,) label projection.

        Returns:
            (rows, w2, k).
        """
        height, width = self.inverse_norm.shape
        norms = self.inverse_norm[rows[0] : rows[1], :, None]
        if self.features.shape[:2] == (height, width):
            scores = self._project(rows, weight, bias) * norms
            return scores.half().float() if self.half else scores
        vertical = Axis.aligned(self.features.shape[0], height, weight.device).part(*rows)
        horizontal = Axis.aligned(self.features.shape[1], width, weight.device)
        start, stop = vertical.span()
        # rows first: there are fewer columns to do it for
        scores = vertical.shifted(start).mix_rows(self._project((start, stop), weight, bias))
        return horizontal.sample_columns(scores).mul_(norms)

    def _project(self, rows: tuple[int, int], weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(self.features[rows[0] : rows[1]], weight, bias)

    def halo(self, rows: tuple[int, int]) -> tuple[int, int]:
        """The rows that the head block needs to know for correct values in `rows`."""
        depth = self.block.depth if self.block else 0
        return max(rows[0] - depth, 0), min(rows[1] + depth, self.inverse_norm.shape[0])


def segment_image(
    grid: ScoreGrid, weight: Tensor, bias: Tensor, vertical: Axis, horizontal: Axis
) -> tuple[Tensor, Tensor]:
    """Label map and confidence of one image.

    Args:
        grid: its scores.
        weight: (N, D) label projection.
        bias: (N,) label projection.
        vertical: output rows from half-resolution rows.
        horizontal: output columns from half-resolution columns.

    Returns:
        (H, W) int64 and (H, W) float32.
    """
    first, counts = distinct_rows(torch.cat([weight, bias[:, None]], dim=1))
    repeated = len(first) < len(weight)
    chunks: list[Chunk] = [
        (weight[part], bias[part], part, count.to(weight) if repeated else None)
        for part, count in zip(first.split(LABELS_AT_ONCE), counts.split(LABELS_AT_ONCE), strict=True)
    ]
    label_rows, confidence_rows = [], []
    height, width = len(vertical.low), len(horizontal.low)
    step = max(1, SCORES_AT_ONCE // (width * min(len(first), LABELS_AT_ONCE)))
    for start in range(0, height, step):
        rows = vertical.part(start, min(start + step, height))
        winner, confidence = _segment_rows(grid, chunks, rows, horizontal)
        label_rows.append(winner)
        confidence_rows.append(confidence)
    return torch.cat(label_rows), torch.cat(confidence_rows)


Chunk = tuple[Tensor, Tensor, Tensor, Tensor | None]  # weight, bias, label indices, how many labels share each


def _segment_rows(grid: ScoreGrid, chunks: list[Chunk], vertical: Axis, horizontal: Axis) -> tuple[Tensor, Tensor]:
    running = RunningArgmax()
    start, _ = vertical.span()
    vertical = vertical.shifted(start)
    for half, (_, _, labels, counts) in zip(_half_resolution(grid, chunks, start, vertical), chunks, strict=True):
        scores = horizontal.sample_columns(vertical.mix_rows(half))
        top = scores.amax(-1)
        index = labels[_first_zero(scores.sub_(top.unsqueeze(-1)))]
        exponentials = scores.exp_()
        running.add(index, top, exponentials.sum(-1) if counts is None else exponentials @ counts)
    return running.result()


def _first_zero(below: Tensor) -> Tensor:
    """Lowest index on the last axis where `below`, which is 0 or less, is 0.

    A fifth of the time of `Tensor.max`, which tracks indices slowly.
    """
    positions = torch.arange(below.shape[-1], dtype=below.dtype, device=below.device)
    return torch.add(positions, below, alpha=-_FAR).amin(-1).long()


def _half_resolution(grid: ScoreGrid, chunks: list[Chunk], start: int, vertical: Axis) -> Iterator[Tensor]:
    rows = (start, start + vertical.span()[1])
    block = grid.block
    if block is None:
        for weight, bias, _, _ in chunks:
            yield grid.raw(rows, weight, bias)
        return
    outer = grid.halo(rows)

    def after(applications: int) -> Iterator[Tensor]:
        for weight, bias, _, _ in chunks:
            scores = grid.raw(outer, weight, bias).permute(2, 0, 1).contiguous().unsqueeze(0)
            yield block.apply_some(scores, maxima, applications)

    # each application of the bottleneck block wants the maximum of its input over all labels: one pass each
    maxima: list[Tensor] = []
    for applications in range(block.depth if block.needs_maximum else 0):
        maximum: Tensor | None = None
        for scores in after(applications):
            top = scores.amax(1, keepdim=True)
            maximum = top if maximum is None else torch.maximum(maximum, top)
        assert maximum is not None
        maxima.append(maximum)
    for scores in after(block.depth):
        yield scores[0, :, rows[0] - outer[0] : rows[1] - outer[0]].permute(1, 2, 0)


def dense_rows(
    features: Tensor,
    inverse_norm: Tensor,
    weight: Tensor,
    bias: Tensor,
    block: HeadBlock | None,
    inner: tuple[int, int],
    size: tuple[int, int],
    rows: tuple[int, int],
    half: bool = False,
) -> Tensor:
    """Scores of some rows at full size, of all the labels given; arguments as of `segment`.

    Args:
        rows: first and one past the last.

    Returns:
        (B, N, rows, W) float32.
    """
    vertical, horizontal = _axes(features, inverse_norm, inner, size)
    vertical = vertical.part(*rows)
    start, _ = vertical.span()
    vertical = vertical.shifted(start)
    labels = torch.arange(len(weight), device=weight.device)
    found = []
    for z, norm in zip(features.float(), inverse_norm.float(), strict=True):
        grid = ScoreGrid(z.permute(1, 2, 0).contiguous(), norm[0], block, half)
        (scores,) = _half_resolution(grid, [(weight, bias, labels, None)], start, vertical)
        found.append(horizontal.sample_columns(vertical.mix_rows(scores)).permute(2, 0, 1))
    return torch.stack(found)


def _axes(features: Tensor, inverse_norm: Tensor, inner: tuple[int, int], size: tuple[int, int]) -> tuple[Axis, Axis]:
    vertical, horizontal = (
        Axis.to_pixels(source, 2 * source, kept, target, features.device)
        for source, kept, target in zip(inverse_norm.shape[2:], inner, size, strict=True)
    )
    return vertical, horizontal


def segment(
    features: Tensor,
    inverse_norm: Tensor,
    weight: Tensor,
    bias: Tensor,
    block: HeadBlock | None,
    inner: tuple[int, int],
    size: tuple[int, int],
    half: bool = False,
) -> Segmentation:
    """Segment a batch at full size.

    Args:
        features: (B, D, h, w) the decoder's map.
        inverse_norm: (B, 1, h2, w2) at half resolution of the padded input.
        weight: (N, D) label projection.
        bias: (N,) label projection.
        block: spatial regularisation, if any.
        inner: (H, W) of the unpadded input.
        size: (H, W) wanted.
        half: round half-resolution scores to half precision; `features` are at that resolution then.
    """
    axes = _axes(features, inverse_norm, inner, size)
    images = [
        segment_image(ScoreGrid(z.permute(1, 2, 0).contiguous(), norm[0], block, half), weight, bias, *axes)
        for z, norm in zip(features.float(), inverse_norm.float(), strict=True)
    ]
    return Segmentation(torch.stack([image[0] for image in images]), torch.stack([image[1] for image in images]))
