"""Pictures of any size through windows of one size: overlapping, their scores blended, memory bounded.

A picture is read in bands of rows over which the same windows lie. Only the encodings of those windows exist at a time,
and of their scores only a strip: (labels of a chunk) x (rows of the strip) x width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg_ray.methods.base import Encoding, Method
from ovseg_ray.methods.distinct import distinct_rows
from ovseg_ray.methods.running import RunningArgmax

LABELS_AT_ONCE = 64
SCORES_AT_ONCE = 4_000_000  # elements of a strip: 16 MB in float32
MOST_SCORES = 64_000_000  # of a row, where all labels must be scored together

Span = tuple[int, int]
Window = tuple[int, int]
"""Row and column of a window in the grid."""


@dataclass(frozen=True)
class TileGrid:
    """Windows over a picture.

    Attributes:
        size: (H, W) of the picture, as the network takes it.
        rows: first and one past the last row of each row of windows.
        columns: the same of columns.
        overlap: pixels over which a window fades out towards its neighbours.
    """

    size: tuple[int, int]
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    overlap: int

    @classmethod
    def over(cls, size: tuple[int, int], side: int, overlap: int) -> TileGrid:
        """Windows of `side` pixels (of the picture's own where it is smaller) that overlap by at least `overlap`."""
        height, width = size
        return cls(size, _spans(height, side, overlap), _spans(width, side, overlap), overlap)

    @property
    def window(self) -> tuple[int, int]:
        """(h, w) of every window."""
        return (self.rows[0][1] - self.rows[0][0], self.columns[0][1] - self.columns[0][0])

    def bands(self) -> Iterator[tuple[Span, tuple[int, ...]]]:
        """Rows of the picture over which the same rows of windows lie, from the top, and those rows' indices."""
        edges = sorted({edge for span in self.rows for edge in span})
        for start, stop in itertools.pairwise(edges):
            yield (start, stop), tuple(i for i, (top, bottom) in enumerate(self.rows) if top < stop and bottom > start)

    def cut(self, image: Tensor, window: Window) -> Tensor:
        """The (3, h, w) part of a (3, H, W) picture."""
        (top, bottom), (left, right) = self.rows[window[0]], self.columns[window[1]]
        return image[:, top:bottom, left:right]


def _spans(length: int, side: int, overlap: int) -> tuple[Span, ...]:
    if length <= side:
        return ((0, length),)
    count = -(-(length - overlap) // (side - overlap))
    starts = [round(index * (length - side) / (count - 1)) for index in range(count)]
    return tuple((start, start + side) for start in starts)


def fade(spans: tuple[Span, ...], overlap: int, device: torch.device | str = "cpu") -> Tensor:
    """Weight of each window along one axis: (windows, length), each column sums to 1.

    Weights rise over `overlap` pixels from a window's edge, except at the picture's own.
    """
    length = spans[-1][1]
    weights = torch.zeros(len(spans), length, dtype=torch.float64)
    for index, (start, stop) in enumerate(spans):
        position = torch.arange(start, stop, dtype=torch.float64)
        rise = position - start + 0.5 if start > 0 else torch.full_like(position, torch.inf)
        fall = stop - position - 0.5 if stop < length else torch.full_like(position, torch.inf)
        weights[index, start:stop] = torch.minimum(rise, fall).clamp_max(max(overlap, 1))
    return (weights / weights.sum(0)).float().to(device)


@torch.no_grad()
def segment_band(
    method: Method,
    grid: TileGrid,
    encodings: Mapping[Window, Encoding],
    text: Tensor,
    band: tuple[Span, tuple[int, ...]],
) -> Iterator[tuple[Span, Tensor, Tensor]]:
    """Label map and confidence of a band, strip by strip.

    The scores of windows over a pixel are averaged with the weights of `fade`, then argmax and softmax are taken: as
    `Method.segment`, lowest index at ties.

    Args:
        method: in eval mode.
        grid: of the picture.
        encodings: of the band's windows at least, of one image each.
        text: (N, D) float32, L2-normalised.
        band: from `TileGrid.bands`.

    Yields:
        First and one past the last row of the picture, (rows, W) int64 labels, (rows, W) float32 confidence.

    Raises:
        ValueError: so many labels that not even one row of scores fits.
    """
    (start, stop), window_rows = band
    width, labels = grid.size[1], len(text)
    chunk = min(labels, LABELS_AT_ONCE) if not method.labels_interact else labels
    if chunk * width > MOST_SCORES:
        raise ValueError(f"{labels} labels over {width} pixels")
    labels_of, counts = distinct_rows(text)  # equal labels tie exactly: they are computed once, for the first of them
    text = text[labels_of]
    vertical, horizontal = (fade(spans, grid.overlap, text.device) for spans in (grid.rows, grid.columns))
    step = max(1, SCORES_AT_ONCE // (chunk * width))
    for top in range(start, stop, step):
        rows = (top, min(top + step, stop))
        running = RunningArgmax()
        for first in range(0, len(text), chunk):
            part = text[first : first + chunk]
            scores = torch.zeros(len(part), rows[1] - rows[0], width, device=text.device)
            for row in window_rows:
                offset = grid.rows[row][0]
                inside = (rows[0] - offset, rows[1] - offset)
                for column, (left, right) in enumerate(grid.columns):
                    dense = method.dense_scores(encodings[row, column], part, grid.window, inside)[0]
                    weight = vertical[row, rows[0] : rows[1], None] * horizontal[column, left:right]
                    scores[:, :, left:right].addcmul_(dense, weight)
            highest, index = scores.max(0)
            times = counts[first : first + chunk].to(scores)
            summed = torch.einsum("khw,k->hw", scores.sub_(highest).exp_(), times)
            running.add(labels_of[index + first], highest, summed)
        yield rows, *running.result()
