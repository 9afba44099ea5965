"""Label map and confidence at full size, in chunks of labels and rows.

Argmax and softmax need no more than a running maximum and a running sum, so the score of a label at a pixel is
computed, used and forgotten. Arrays of scores are (columns, rows, labels): labels last is the layout in which torch
interpolates and reduces at the speed of memory, and columns first makes the mixing of rows a batched product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ray.methods.base import Segmentation
from ovseg_ray.methods.distinct import distinct_rows
from ovseg_ray.methods.lseg.head_blocks import HeadBlock
from ovseg_ray.methods.lseg.resampling import Axis
from ovseg_ray.methods.running import RunningArgmax

LABELS_AT_ONCE = 128
SCORES_AT_ONCE = 1_000_000  # elements of one full-size chunk: 4 MB in float32, near the cache
_FAR = 1e30  # turns the smallest difference of two scores into more than a position in a chunk


@dataclass(frozen=True)
class ScoreGrid:
    """One image as its scores are made of.

    Attributes:
        features: (w, h, D) float32, contiguous: the decoder's map.
        inverse_norm: (w2, h2) float32 at half resolution of the padded input.
        block: spatial regularisation, if any.
        half: round scores to half precision before the block; `features` are at half resolution then.
    """

    features: Tensor
    inverse_norm: Tensor
    block: HeadBlock | None
    half: bool = False

    @classmethod
    def of(cls, features: Tensor, inverse_norm: Tensor, block: HeadBlock | None, half: bool) -> ScoreGrid:
        """From (D, h, w) and (1, h2, w2)."""
        return cls(features.float().permute(2, 1, 0).contiguous(), inverse_norm[0].float().t(), block, half)


class Strip:
    """Some rows of an image at full size: scores of any labels when asked.

    Interpolation is linear, so all that happens to rows between the decoder's map and the picture (up to half
    resolution, times the inverse norms, up to full size) is one small matrix for each column.

    Args:
        grid: of the image.
        vertical: the output rows, from half-resolution rows.
        horizontal: all output columns, from half-resolution columns.
    """

    def __init__(self, grid: ScoreGrid, vertical: Axis, horizontal: Axis) -> None:
        self._block, self._half, self._horizontal = grid.block, grid.half, horizontal
        depth = grid.block.depth if grid.block else 0
        (width, height), device = grid.inverse_norm.shape, grid.features.device
        first, last = vertical.span()
        outer = max(first - depth, 0), min(last + depth, height)  # what the block needs for correct values inside
        to_pixels = vertical.shifted(first).matrix(last - first)
        rows = Axis.aligned(grid.features.shape[1], height, device).part(*outer)
        start, stop = rows.span()
        to_half = grid.inverse_norm[:, outer[0] : outer[1], None] * rows.shifted(start).matrix(stop - start)
        self._features = grid.features[:, start:stop].contiguous()
        self._columns = None if len(self._features) == width else Axis.aligned(len(self._features), width, device)
        self._mix = to_half if grid.block else to_pixels @ to_half
        self._to_pixels, self._inner = to_pixels, slice(first - outer[0], last - outer[0])

    def scores(self, labels: Sequence[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
        """Scores of each list of labels in turn.

        Args:
            labels: of each list the (k, D) weight and (k,) bias of its projection. All labels must be in one of the
                lists where the block takes a maximum over labels.

        Yields:
            (W, rows, k).
        """
        rows = (self._mixed(*part) for part in labels) if self._block is None else self._blocked(self._block, labels)
        return (self._horizontal.sample_first(part) for part in rows)

    def _mixed(self, weight: Tensor, bias: Tensor) -> Tensor:
        scores = F.linear(self._features, weight, bias)
        if self._half:  # the norms are 1 then
            scores = scores.half().float()
        # columns before rows: there are fewer rows to do it for
        return torch.bmm(self._mix, scores if self._columns is None else self._columns.sample_first(scores))

    def _blocked(self, block: HeadBlock, labels: Sequence[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
        def after(applications: int) -> Iterator[Tensor]:
            for part in labels:
                yield block.apply_some(self._mixed(*part).permute(2, 1, 0).unsqueeze(0), maxima, applications)

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
            yield self._to_pixels @ scores[0, :, self._inner].permute(2, 1, 0)


@dataclass(frozen=True)
class _Chunk:
    """Some labels: (k, D) weight, (k,) bias, (k,) indices, and the log of how many labels are equal to each."""

    weight: Tensor
    bias: Tensor
    indices: Tensor
    log_counts: Tensor | None


def _chunks(weight: Tensor, bias: Tensor) -> list[_Chunk]:
    """All labels, (N, D) and (N,), each once."""
    first, counts = distinct_rows(torch.cat([weight, bias[:, None]], dim=1))
    repeated = len(first) < len(weight)
    return [
        _Chunk(weight[part], bias[part], part, count.to(weight).log() if repeated else None)
        for part, count in zip(first.split(LABELS_AT_ONCE), counts.split(LABELS_AT_ONCE), strict=True)
    ]


def _segment_image(
    grid: ScoreGrid, chunks: Sequence[_Chunk], vertical: Axis, horizontal: Axis
) -> tuple[Tensor, Tensor]:
    """(H, W) int64 label map and (H, W) float32 confidence of one image."""
    height, width = len(vertical.low), len(horizontal.low)
    step = max(1, SCORES_AT_ONCE // (width * len(chunks[0].indices)))
    strips = [
        _segment_strip(Strip(grid, vertical.part(start, min(start + step, height)), horizontal), chunks)
        for start in range(0, height, step)
    ]
    label_map, confidence = (torch.cat(parts, dim=1).t().contiguous() for parts in zip(*strips, strict=True))
    return label_map, confidence


def _segment_strip(strip: Strip, chunks: Sequence[_Chunk]) -> tuple[Tensor, Tensor]:
    running = RunningArgmax()
    parts = strip.scores([(chunk.weight, chunk.bias) for chunk in chunks])
    for scores, chunk in zip(parts, chunks, strict=True):
        top = scores.amax(-1)
        # later chunks win at few pixels, and the index of a maximum is dear
        wins = running.beaten_by(top).nonzero(as_tuple=True)
        label = torch.zeros_like(top, dtype=torch.int64)
        label[wins] = chunk.indices[_first_zero(scores[wins].sub_(top[wins].unsqueeze(-1)))]
        # log_softmax reads and writes once, where subtraction, exponential and sum are a pass over memory each
        if chunk.log_counts is None:
            total = scores.log_softmax(-1).amax(-1).neg_().exp_()
        else:
            weighted = scores.add_(chunk.log_counts)
            total = (weighted.amax(-1) - top - weighted.log_softmax(-1).amax(-1)).exp_()
        running.add(label, top, total)
    return running.result()


def _first_zero(below: Tensor) -> Tensor:
    """Lowest index on the last axis where `below`, which is 0 or less, is 0.

    A fifth of the time of `Tensor.max`, which tracks indices slowly. Where nothing is a number the index is 0: one out
    of range would end a GPU's process for good, and the confidence says that there is no answer.
    """
    positions = torch.arange(below.shape[-1], dtype=below.dtype, device=below.device)
    return torch.add(positions, below, alpha=-_FAR).amin(-1).long().clamp_min_(0)


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
    found = []
    for z, norm in zip(features, inverse_norm, strict=True):
        strip = Strip(ScoreGrid.of(z, norm, block, half), vertical.part(*rows), horizontal)
        (scores,) = strip.scores([(weight, bias)])
        found.append(scores.permute(2, 1, 0))
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
    axes, chunks = _axes(features, inverse_norm, inner, size), _chunks(weight, bias)
    images = [
        _segment_image(ScoreGrid.of(z, norm, block, half), chunks, *axes)
        for z, norm in zip(features, inverse_norm, strict=True)
    ]
    return Segmentation(torch.stack([image[0] for image in images]), torch.stack([image[1] for image in images]))
