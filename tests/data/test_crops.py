from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ovseg_ray.data.crops import crop_id, five_crops, flat_index, hashed_crops, image_and_crop, image_of_crop

GOLDEN = np.load(Path(__file__).parents[1] / "golden/stego/crops.npz")
SIZES = [(37, 50), (427, 640), (1024, 2048), (481, 333)]


@pytest.mark.parametrize("size", SIZES)
def test_boxes(size: tuple[int, int]) -> None:
    name = f"{size[0]}x{size[1]}"
    assert np.array_equal(five_crops(*size), GOLDEN[f"five_{name}"])
    for item in (0, 7):
        assert np.array_equal(hashed_crops(*size, item), GOLDEN[f"random_{name}_item{item}"])


def test_addresses() -> None:
    assert [image_and_crop(flat_index(3, crop)) for crop in range(5)] == [(3, crop) for crop in range(5)]
    assert flat_index(3, 0) == 15
    assert image_of_crop(crop_id("a#b", 4)) == "a#b"
    assert image_of_crop("plain") == "plain"
