"""Blocks of an index to blocks of decoded squares, for tasks of Ray Data; they need neither Ray nor PyTorch to run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ovseg_ray.data.crops import crop_id
from ovseg_ray.data.dataset import DataSet
from ovseg_ray.data.images import read_bytes
from ovseg_ray.data.squares import SquareConfig, squares_of
from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.sources import Source, content_of, stamp_of

COLUMNS = {
    "part": pa.int64(),
    "image_id": pa.string(),
    "pixels": pa.large_binary(),
    "mask": pa.large_binary(),
    "wide": pa.bool_(),
    "problem": pa.string(),
    "source": pa.struct([(name, pa.string()) for name in Source._fields]),
}
Row = tuple[str, bytes | None, np.ndarray | None, str | None, dict[str, Any] | None]


@dataclass(frozen=True)
class SquareDecoder:
    """Rows of the index, with their "part", to rows of `COLUMNS`: a row for each square.

    "pixels" are (S, S, 3) uint8, "mask" (S, S) uint8 or, where "wide", uint16; an image that cannot be read has only
    its name and the "problem". "source" is a `Source` in the first row of every image, and null in those of its other
    crops.
    """

    dataset: DataSet
    squares: SquareConfig

    def __call__(self, block: pa.Table) -> pa.Table:
        columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        for row in block.to_pylist():
            for name, pixels, mask, problem, source in self._squares(row):
                wide = mask is not None and mask.dtype == np.uint16
                data = None if mask is None else mask.tobytes()
                values = (row["part"], name, pixels, data, wide, problem, source)
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
        return pa.table({name: pa.array(columns[name], kind) for name, kind in COLUMNS.items()})

    def _squares(self, row: dict[str, Any]) -> Iterator[Row]:
        name, files = row["image_id"], self.dataset.files(row)
        stamp = stamp_of(files)  # before reading: what changes meanwhile then shows
        try:
            contents = [read_bytes(file) for file in files]
            sample = self.dataset.decode_row(row, contents[0] if contents else None)
        except UserError as error:
            yield name, None, None, str(error), Source(name, stamp, None)._asdict()
            return
        source = Source(name, stamp, content_of(contents))._asdict()
        squares = squares_of(sample.image, sample.mask, self.squares)
        for crop, square in enumerate(squares):
            crop_name = name if len(squares) == 1 else crop_id(name, crop)
            yield crop_name, square.image.tobytes(), square.mask, None, source if crop == 0 else None


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
