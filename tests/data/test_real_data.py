"""The readers against published data, where it is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_ray.data import list_splits, open_dataset
from ovseg_ray.data.check import check_dataset

pytestmark = pytest.mark.real_data


@pytest.mark.parametrize(
    ("split", "images", "shares"),
    [
        ("train", 367, {"Sky": 0.1685, "Road": 0.3166, "Pole": 0.0098, "Bicyclist": 0.0029, None: 0.0395}),
        ("val", 101, {"Sky": 0.0918, "Road": 0.2895, "Pole": 0.0056, "Bicyclist": 0.0222, None: 0.0170}),
    ],
)
def test_camvid_pixel_shares(real_data: Path, split: str, images: int, shares: dict[str | None, float]) -> None:
    dataset = open_dataset(real_data / "camvid", split)
    vocabulary = dataset.require_masks()
    assert len(dataset) == images
    assert len(vocabulary) == 11
    assert dataset.masks is not None
    counts = np.zeros(256, np.int64)
    for row in dataset.index.to_pylist():
        counts += np.bincount(dataset.masks(row, 360, 480).ravel(), minlength=256)  # type: ignore[union-attr]
    for name, share in shares.items():
        index = 255 if name is None else vocabulary.index(name)
        assert counts[index] / counts.sum() == pytest.approx(share, abs=5e-5), name
    assert counts[11:255].sum() == 0


@pytest.mark.parametrize(("split", "images", "present"), [("train", 50, 68), ("val", 27, 32), ("val2", 50, 67)])
def test_coco_instances_are_drawn_as_the_shipped_masks(real_data: Path, split: str, images: int, present: int) -> None:
    dataset = open_dataset(real_data / "coco_subset", split)
    assert list_splits(real_data / "coco_subset") == ["train", "val", "val2"]
    assert len(dataset) == images
    assert len(dataset.require_masks()) == 80
    assert dataset.parents["zebra"] == "animal"
    classes: set[int] = set()
    for row in dataset.index.to_pylist():
        sample = dataset.decode_row(row)
        image = Path(row["image_path"])
        shipped = np.asarray(Image.open(image.parents[1] / "masks" / f"{image.stem}.png"))
        # shipped: 0 = nothing annotated, 1 + class otherwise; uint8 arithmetic turns 0 into 255 = ignored
        np.testing.assert_array_equal(sample.mask, shipped - np.uint8(1), err_msg=row["image_id"])
        assert sample.mask is not None
        assert len(sample.captions) == 5
        classes |= set(np.unique(sample.mask).tolist()) - {255}
    assert len(classes) == present


def test_coco_subset_has_no_problems(real_data: Path) -> None:
    assert check_dataset(open_dataset(real_data / "coco_subset", "val")) == []
