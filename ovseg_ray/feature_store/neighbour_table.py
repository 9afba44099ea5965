"""The table of nearest neighbours: parquet, one row an image, best neighbour first."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ovseg_ray.errors import UserError

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("neighbour_ids", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),  # cosine, descending
    ]
)
_KEY = b"ovseg_ray.neighbours"


@dataclass(frozen=True)
class TableInfo:
    """What a table says of itself.

    Attributes:
        features: hash of the vectors it was made from.
        k: neighbours of each image, at most.
        index: kind of search.
        recall: share of the true neighbours that the search finds, on a sample.
        removed: what was left out: "self", "same_image", "duplicates".
    """

    features: str
    k: int
    index: str
    recall: float
    removed: tuple[str, ...]


class NeighbourTable:
    """A table in memory, by row or by name.

    Attributes:
        info: where it comes from.
    """

    def __init__(self, table: pa.Table, info: TableInfo) -> None:
        self.info = info
        self._table = table.combine_chunks()
        self._rows = {name: row for row, name in enumerate(table.column("image_id").to_pylist())}

    def __len__(self) -> int:
        return self._table.num_rows

    @classmethod
    def open(cls, path: str | Path, features: str | None = None) -> NeighbourTable:
        """Read a table.

        Args:
            path: the parquet file.
            features: hash of the vectors it must have been made from.

        Raises:
            UserError: no table, or one of other vectors.
        """
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            problem = str(error).splitlines()[0]
            raise UserError(
                f"{path}: not a whole neighbour table ({problem}); make one with 'ovseg-ray neighbours build'"
            ) from error
        content = (table.schema.metadata or {}).get(_KEY)
        if content is None or not set(SCHEMA.names) <= set(table.schema.names):
            raise UserError(f"{path}: is no neighbour table; make one with 'ovseg-ray neighbours build'")
        values: dict[str, Any] = json.loads(content)
        info = TableInfo(**{**values, "removed": tuple(values["removed"])})
        if features is not None and info.features != features:
            raise UserError(
                f"{path}: was made from other features ({info.features}, these are {features}); "
                "make it again with 'ovseg-ray neighbours build'"
            )
        return cls(table.select(SCHEMA.names), info)

    def neighbours(self, image_id: str) -> list[str]:
        """Names of the neighbours of an image, best first.

        Raises:
            UserError: an image that is not in the table.
        """
        if image_id not in self._rows:
            raise UserError(f"image '{image_id}': is not in the neighbour table; make the table from the same features")
        return self._table.column("neighbour_ids")[self._rows[image_id]].as_py()

    def drawn_from(self, image_id: str, ranks: int) -> list[str]:
        """The best `ranks` neighbours of an image, itself left out where the table keeps it at rank 0.

        Raises:
            UserError: an image that is not in the table.
        """
        first = 0 if "self" in self.info.removed else 1
        return self.neighbours(image_id)[first : first + ranks]

    def scores(self, image_id: str) -> np.ndarray:
        """(k,) float32 cosines of `neighbours`."""
        return np.asarray(self._table.column("scores")[self._rows[image_id]].as_py(), np.float32)


def write_table(path: Path, parts: Iterable[pa.Table], info: TableInfo) -> None:
    """Write a table, part by part; it appears under its name only when it is whole.

    Raises:
        UserError: it cannot be written.
    """
    schema = SCHEMA.with_metadata({_KEY: json.dumps(asdict(info)).encode()})
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(partial, schema) as writer:
            for part in parts:
                writer.write_table(part.cast(schema))
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room or choose another place") from error
    finally:
        partial.unlink(missing_ok=True)


def table_part(ids: pa.Array, names: pa.Array, scores: np.ndarray, counts: np.ndarray) -> pa.Table:
    """Rows of a table.

    Args:
        ids: (n,) images.
        names: neighbours of all of them, one after another.
        scores: as many float32.
        counts: (n,) neighbours of each.
    """
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    lists = pa.ListArray.from_arrays(offsets, names), pa.ListArray.from_arrays(offsets, pa.array(scores, pa.float32()))
    return pa.table([ids, *lists], schema=SCHEMA)
