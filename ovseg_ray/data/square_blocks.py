"""Blocks of an index to blocks of decoded squares, for tasks of Ray Data; they need neither Ray nor PyTorch to run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ovseg_ray.data.crops import crop_id
from ovseg_ray.data.dataset import DataSet
from ovseg_ray.data.squares import SquareConfig, squares_of
from ovseg_ray.errors import UserError

COLUMNS = {
    "part": pa.int64(),
    "image_id": pa.string(),
    "pixels": pa.large_binary(),
    "mask": pa.large_binary(),
    "wide": pa.bool_(),
    "problem": pa.string(),
}


@dataclass(frozen=True)
class SquareDecoder:
    """Rows of the index, with their "part", to rows of `COLUMNS`: a row for each square.

    "pixels" are (S, S, 3) uint8, "mask" (S, S) uint8 or, where "wide", uint16; an image that cannot be read has only
    its name and the "problem".
    """

    dataset: DataSet
    squares: SquareConfig

    def __call__(self, block: pa.Table) -> pa.Table:
        columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        for row in block.to_pylist():
            for name, pixels, mask, problem in self._squares(row):
                wide = mask is not None and mask.dtype == np.uint16
                data = None if mask is None else mask.tobytes()
                values = (row["part"], name, pixels, data, wide, problem)
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
        return pa.table({name: pa.array(columns[name], kind) for name, kind in COLUMNS.items()})

    def _squares(self, row: dict[str, Any]) -> Iterator[tuple[str, bytes | None, np.ndarray | None, str | None]]:
        name = row["image_id"]
        try:
            sample = self.dataset.decode_row(row)
        except UserError as error:
            yield name, None, None, str(error)
            return
        squares = squares_of(sample.image, sample.mask, self.squares)
        for crop, square in enumerate(squares):
            yield name if len(squares) == 1 else crop_id(name, crop), square.image.tobytes(), square.mask, None


def bytes_of(column: pa.ChunkedArray) -> np.ndarray:
    """All values of a large binary column one after another; missing ones have no bytes. Not copied where one chunk."""
    parts = []
    for chunk in column.chunks:
        _, offsets, values = chunk.buffers()
        ends = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        parts.append(np.frombuffer(values, np.uint8)[ends[0] : ends[-1]])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def mask_of(row: dict[str, Any], side: int) -> np.ndarray | None:
    """(side, side) of a row of `COLUMNS`."""
    if row["mask"] is None:
        return None
    return np.frombuffer(row["mask"], np.uint16 if row["wide"] else np.uint8).reshape(side, side)
