from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.neighbour_table import NeighbourTable, TableInfo, table_part, write_table

INFO = TableInfo("abc", 2, "flat", 1.0, ("self",))


def part(*images: str) -> pa.Table:
    names = [f"{image}{rank}" for image in images for rank in range(2)]
    scores = np.tile(np.array([0.9, 0.5], np.float32), len(images))
    return table_part(pa.array(images), pa.array(names), scores, np.full(len(images), 2))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep/t.parquet"
    write_table(path, [part("a", "b"), part("c")], INFO)
    table = NeighbourTable.open(path, "abc")
    assert len(table) == 3
    assert table.neighbours("c") == ["c0", "c1"]
    assert table.scores("b").tolist() == pytest.approx([0.9, 0.5])
    assert table.info == INFO
    assert pq.read_table(path).schema.names == ["image_id", "neighbour_ids", "scores"]


def test_lists_of_different_length(tmp_path: Path) -> None:
    ragged = table_part(pa.array(["a", "b"]), pa.array(["x"]), np.array([0.5], np.float32), np.array([0, 1]))
    write_table(tmp_path / "t.parquet", [ragged], INFO)
    table = NeighbourTable.open(tmp_path / "t.parquet")
    assert table.neighbours("a") == []
    assert table.neighbours("b") == ["x"]


def test_a_stale_table_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", [part("a")], INFO)
    with pytest.raises(UserError, match=r"other features \(abc, these are xyz\)"):
        NeighbourTable.open(tmp_path / "t.parquet", "xyz")


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    def parts() -> Iterator[pa.Table]:
        yield part("a")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_table(tmp_path / "t.parquet", parts(), INFO)
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_no_tables(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image_id": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="no neighbour table"):
        NeighbourTable.open(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="nowhere"):
        NeighbourTable.open(tmp_path / "nowhere.parquet")
    write_table(tmp_path / "t.parquet", [part("a")], INFO)
    with pytest.raises(UserError, match="image 'z'"):
        NeighbourTable.open(tmp_path / "t.parquet").neighbours("z")
