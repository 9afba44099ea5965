"""The part of a training split that validates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from ovseg_ray.data.cut import cut, validation_images
from ovseg_ray.data.dataset import INDEX_SCHEMA, DataSet
from ovseg_ray.errors import UserError


def dataset_of(names: list[str]) -> DataSet:
    rows = [
        {"image_id": name, "image_path": name, "mask_path": None, "instances": None, "captions": []} for name in names
    ]
    return DataSet(Path("x"), "train", "folder", pa.Table.from_pylist(rows, INDEX_SCHEMA), None, None)


def names_of(dataset: DataSet) -> list[str]:
    return dataset.index.column("image_id").to_pylist()


def test_every_image_is_in_one_part() -> None:
    names = [f"{i:03d}" for i in range(50)]
    train, val = cut(dataset_of(names), 0.2)
    assert (len(train), len(val)) == (40, 10)
    assert sorted(names_of(train) + names_of(val)) == names
    assert names_of(train) == sorted(names_of(train))  # the order of the data set
    # spread over it, and decided by the name alone
    assert min(names_of(val)) < "020" < "030" < max(names_of(val))
    assert names_of(cut(dataset_of(names[::-1]), 0.2)[1])[::-1] == names_of(val)


def test_crops_of_an_image_stay_together() -> None:
    names = [f"{i}#{crop}" for i in range(10) for crop in range(5)]
    train, val = cut(dataset_of(names), 0.3)
    assert len(val) == 15
    assert not {n.split("#")[0] for n in names_of(val)} & {n.split("#")[0] for n in names_of(train)}


@pytest.mark.parametrize(("images", "share", "cut_out"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.26, 3), (1, 0.5, 0)])
def test_one_at_least_on_each_side(images: int, share: float, cut_out: int) -> None:
    assert len(validation_images([str(i) for i in range(images)], share)) == cut_out


def test_one_image_cannot_be_cut() -> None:
    with pytest.raises(UserError, match="too few images"):
        cut(dataset_of(["a"]), 0.5)
    with pytest.raises(UserError, match="too few images"):
        cut(replace(dataset_of(["a#0", "a#1"])), 0.5)
