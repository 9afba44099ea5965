from __future__ import annotations

from pathlib import Path

import numpy as np

from ovseg_ray.data import class_maps

GOLDEN = np.load(Path(__file__).parents[1] / "golden/stego/class_maps.npz")


def test_tables() -> None:
    assert np.array_equal(class_maps.cocostuff_coarse(), GOLDEN["cocostuff_fine_to_coarse"])
    assert np.array_equal(class_maps.cocostuff_3(), GOLDEN["cocostuff3_from_27"])
    assert GOLDEN["cocostuff_first_stuff"] == class_maps.COCOSTUFF_FIRST_STUFF
    assert np.array_equal(class_maps.potsdam_coarse(), GOLDEN["potsdam_fine_to_coarse"])
    assert GOLDEN["cityscapes_first_nonvoid_labelid"] == class_maps.CITYSCAPES_FIRST_ID
    assert np.array_equal(class_maps.cityscapes_palette(), GOLDEN["cityscapes_palette"])
    assert np.array_equal(class_maps.pascal_palette(), GOLDEN["pascal_palette"])


def test_masks() -> None:
    coarse = class_maps.coarse_labels(np.array([[0, 181], [255, 200]], np.uint8), class_maps.cocostuff_coarse())
    assert coarse.tolist() == [[9, 24], [-1, -1]]
    assert class_maps.cityscapes_labels(np.array([[6, 7], [33, 0]])).tolist() == [[-1, 0], [26, -1]]
    assert class_maps.cocostuff_15().tolist() == [-1] * 12 + list(range(15))
    assert len(class_maps.COCOSTUFF_27) == len(class_maps.CITYSCAPES_27) == 27
