from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from ovseg_ray.data import DataSet, open_dataset
from ovseg_ray.data.dataset import INDEX_SCHEMA
from ovseg_ray.data.ray_dataset import sample_dataset
from ovseg_ray.errors import UserError


def repeated(dataset: DataSet, count: int) -> DataSet:
    """`count` rows that all show the first image."""
    rows = [dataset.row(0) | {"image_id": f"{i:04d}"} for i in range(count)]
    return replace(dataset, index=pa.Table.from_pylist(rows, schema=INDEX_SCHEMA))


def test_no_rows_is_an_error(camvid: Path) -> None:
    with pytest.raises(UserError, match=r"camvid \(split train\): no images to read"):
        sample_dataset(open_dataset(camvid), rows=[])


@pytest.mark.ray
@pytest.mark.parametrize(
    ("count", "blocks", "expected"), [(10, None, 1), (10, 5, 1), (260, None, 5), (260, 2, 2), (260, 99, 5)]
)
def test_blocks_are_never_small(ray_cluster: None, camvid: Path, count: int, blocks: int | None, expected: int) -> None:
    dataset = repeated(open_dataset(camvid), count)
    assert sample_dataset(dataset, blocks=blocks).num_blocks() == expected


@pytest.mark.ray
def test_workers_decode_exactly_the_chosen_rows(ray_cluster: None, camvid: Path) -> None:
    dataset = repeated(open_dataset(camvid), 120)
    reader = dataset.without_index()

    def labelled(rows: pa.Table) -> pa.Table:
        samples = [reader.sample(row).decode() for row in rows.to_pylist()]
        pixels = [int((s.mask != s.ignore_index).sum()) for s in samples if s.mask is not None]
        return pa.table({"image_id": rows["image_id"], "labelled": pixels})

    found = sample_dataset(dataset, rows=range(5, 115)).map_batches(labelled, batch_format="pyarrow").take_all()
    assert sorted(row["image_id"] for row in found) == [f"{i:04d}" for i in range(5, 115)]
    assert {row["labelled"] for row in found} == {42}
