from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle

from ovseg_ray.data.readers.coco_masks import CocoMasks, draw
from ovseg_ray.errors import UserError

SQUARE = np.zeros((5, 7), bool)
SQUARE[1:4, 2:5] = True


def compressed(mask: np.ndarray) -> dict[str, Any]:
    code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    pixels = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(pixels, prepend=0)).tolist()
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, mask.size]).tolist()}


@pytest.mark.parametrize(
    "segmentation",
    [
        pytest.param([[2, 1, 5, 1, 5, 4, 2, 4]], id="polygon"),
        pytest.param([[2, 1, 4, 1, 4, 4, 2, 4], [4, 1, 5, 1, 5, 4, 4, 4]], id="two polygons"),
        pytest.param(uncompressed(SQUARE), id="uncompressed RLE"),
        pytest.param(compressed(SQUARE), id="compressed RLE"),
    ],
)
def test_every_form_draws_the_same(segmentation: Any) -> None:
    drawn = draw(segmentation, 5, 7, "x")
    assert drawn.dtype == bool
    np.testing.assert_array_equal(drawn, SQUARE)


def test_polygons_are_cut_at_the_image() -> None:
    assert draw([[-50, -50, 90, -50, 90, 90, -50, 90]], 5, 7, "x").all()


@pytest.mark.parametrize(
    ("segmentation", "fragment"),
    [
        pytest.param("x", "neither polygons nor RLE", id="text"),
        pytest.param({"counts": [35]}, "neither polygons nor RLE", id="RLE without size"),
        pytest.param({"size": 35, "counts": [35]}, "neither polygons nor RLE", id="RLE with one side"),
        pytest.param([[1, 2, 3, 4]], "at least three points", id="box in place of a polygon"),
        pytest.param([[1, 2, 3, 4, 5, 6, 7]], "at least three points", id="odd polygon"),
        pytest.param([1, 2, 3, 4, 5, 6], "at least three points", id="bare numbers"),
        pytest.param([["a", "b", "c", "d", "e", "f"]], "broken segmentation", id="words"),
        pytest.param({"size": [7, 5], "counts": [35]}, "mask is 5 x 7 but its image is 7 x 5", id="RLE turned"),
        pytest.param({"size": [5, 7], "counts": [34]}, "counts add up to 34, not 5 x 7", id="RLE too short"),
        pytest.param({"size": [5, 7], "counts": [40]}, "counts add up to 40", id="RLE too long"),
        pytest.param({"size": [5, 7], "counts": "zzzz"}, "broken segmentation", id="RLE of noise"),
        pytest.param({"size": [5, 7], "counts": None}, "broken segmentation", id="RLE of nothing"),
        pytest.param({"size": [5, 7], "counts": [36, -1]}, "broken segmentation", id="negative count"),
    ],
)
def test_broken_segmentations_are_named(segmentation: Any, fragment: str) -> None:
    with pytest.raises(UserError) as caught:
        draw(segmentation, 5, 7, "a.jpg: annotation 3")
    message = str(caught.value)
    assert message.startswith("a.jpg: annotation 3: ")
    assert fragment in message
    assert "\n" not in message


def row(*annotations: dict[str, Any]) -> dict[str, Any]:
    content = {"size": [5, 7], "annotations": list(annotations)}
    return {"image_path": "a.jpg", "mask_path": None, "instances": json.dumps(content)}


@pytest.mark.parametrize(
    ("areas", "ids", "top"),
    [
        ((9, 5), (1, 2), 1),
        ((5, 9), (1, 2), 0),
        ((7, 7), (1, 2), 1),  # equal: the lower id is drawn first, so that the higher one stays visible
        ((7, 7), (2, 1), 0),
        ((None, None), (1, 2), 1),
    ],
)
def test_order_of_drawing(areas: tuple[Any, Any], ids: tuple[int, int], top: int) -> None:
    annotations = [
        {"id": i, "category_id": c, "segmentation": compressed(SQUARE)} | ({} if area is None else {"area": area})
        for i, c, area in zip(ids, (10, 20), areas, strict=True)
    ]
    mask = CocoMasks({10: 0, 20: 1}, frozenset(), 2)(row(*annotations), 5, 7)
    assert set(mask[SQUARE]) == {top}
    assert set(mask[~SQUARE]) == {255}


def test_many_labels_need_sixteen_bits() -> None:
    annotation = {"id": 1, "category_id": 1, "area": 9, "segmentation": compressed(SQUARE)}
    mask = CocoMasks({1: 299}, frozenset(), 300)(row(annotation), 5, 7)
    assert mask.dtype == np.uint16
    assert np.unique(mask).tolist() == [299, 65535]
