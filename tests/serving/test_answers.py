"""Masks, backgrounds and parts of answers from a label map that is known."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import Image
from pycocotools import mask as coco_mask

from ovseg_ray.serving import answers, polygons
from ovseg_ray.serving.api import CocoRle, Parameters, Png
from ovseg_ray.serving.problems import ProblemError
from ovseg_ray.serving.runs import Runs

NAMES = ("sky", "grass", "car")


def ask(**values: object) -> Parameters:
    return Parameters.model_validate({"candidate_labels": list(NAMES), **values})


def blobs(height: int = 40, width: int = 55, seed: int = 0) -> np.ndarray:
    """A mask with parts, holes, single pixels, and pixels that touch at corners and at the border."""
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.random((8, 11)) < 0.5, np.ones((5, 5))).astype(bool)
    mask ^= rng.random((height, width)) < 0.05
    return mask


def fill(parts: list[list[list[float]]], height: int, width: int) -> np.ndarray:
    """Pixels whose centre lies in an odd number of rings."""
    rows, columns = np.mgrid[:height, :width]
    centres = np.column_stack([columns.ravel() + 0.5, rows.ravel() + 0.5])
    inside = np.zeros(height * width, int)
    for ring in (ring for part in parts for ring in part):
        inside += Outline([*np.reshape(ring, (-1, 2)), ring[:2]]).contains_points(centres)
    return (inside % 2 == 1).reshape(height, width)


@pytest.mark.parametrize("seed", range(4))
def test_polygons_are_the_mask_again(seed: int) -> None:
    mask = blobs(seed=seed)
    parts = polygons.trace(mask)
    assert np.array_equal(fill(parts, *mask.shape), mask)
    assert all(len(ring) >= 8 for part in parts for ring in part)


def test_polygons_of_nothing_everything_and_a_ring() -> None:
    assert polygons.trace(np.zeros((3, 4), bool)) == []
    full = polygons.trace(np.ones((3, 4), bool))
    assert len(full) == len(full[0]) == 1
    assert (min(full[0][0]), max(full[0][0])) == (0.0, 4.0)
    ring = np.ones((9, 9), bool)
    ring[3:6, 3:6] = False
    assert [len(part) for part in polygons.trace(ring)] == [2]


def example() -> tuple[np.ndarray, np.ndarray]:
    label_map = np.zeros((10, 20), np.uint8)
    label_map[6:], label_map[8:, :5] = 1, 2
    confidence = np.full((10, 20), 0.9, np.float32)
    confidence[:, 10:] = 0.4
    confidence[8:, :5] = 0.3
    return label_map, confidence


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ({}, {0: 120, 1: 70, 2: 10}),
        ({"threshold": 0.5}, {0: 60, 1: 30, 255: 110}),
        ({"threshold": 0.5, "background": "sky"}, {0: 170, 1: 30}),
        ({"threshold": 0.5, "background": "argmax"}, {0: 120, 1: 70, 2: 10}),
        ({"threshold": 0.35}, {0: 120, 1: 70, 255: 10}),
    ],
)
def test_unconfident_pixels_become_background(values: dict[str, object], counts: dict[int, int]) -> None:
    label_map, confidence = example()
    found = answers.apply_background(label_map, confidence, NAMES, ask(**values))
    index, pixels = np.unique(found, return_counts=True)
    assert dict(zip(index.tolist(), pixels.tolist(), strict=True)) == counts
    assert found.dtype == np.uint8


def test_a_background_that_is_no_label_is_named() -> None:
    with pytest.raises(ProblemError, match=r"background .*sea"):
        answers.background_value(NAMES, "sea")


def test_segments_in_every_mask_format() -> None:
    label_map, confidence = example()
    forms = [answers.segments(label_map, confidence, NAMES, ask(mask_format=f)) for f in ("rle", "png", "polygon")]
    for rle, png, polygon in zip(*forms, strict=True):
        assert rle.label == png.label == polygon.label == NAMES[rle.index]
        expected = label_map == rle.index
        assert isinstance(rle.segmentation, CocoRle)
        assert isinstance(png.segmentation, Png)
        assert isinstance(polygon.segmentation, list)
        decoded = coco_mask.decode({"size": [10, 20], "counts": rle.segmentation.counts.encode()})
        assert np.array_equal(decoded.astype(bool), expected)
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(png.segmentation.png))))
        assert set(np.unique(image)) <= {0, 255}
        assert np.array_equal(image == 255, expected)
        assert np.array_equal(fill(polygon.segmentation, 10, 20), expected)
        rows, columns = np.nonzero(expected)
        box = (columns.min(), rows.min(), columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min())
        assert rle.bbox == tuple(map(float, box))
        assert rle.area == expected.sum()
        assert rle.score == pytest.approx(confidence[expected].mean(), abs=1e-4)
    assert [segment.area for segment in forms[0]] == [120, 70, 10]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (40, 55)])
def test_runs_are_what_pycocotools_encodes(size: tuple[int, int], kind: type) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 4, size).astype(kind)
    areas = np.kron(rng.integers(0, 3, (size[0] // 8 + 1, size[1] // 8 + 1)), np.ones((8, 8)))[: size[0], : size[1]]
    void = np.where(noise == 3, np.iinfo(kind).max, noise).astype(kind)
    for label_map in (noise, areas.astype(kind), void, np.zeros(size, kind), np.full(size, np.iinfo(kind).max, kind)):
        runs = Runs(label_map)
        for index in (0, 1, 3, np.iinfo(kind).max):
            expected = coco_mask.encode(np.asfortranarray(label_map == index, dtype=np.uint8))
            assert runs.encode(index) == {**expected, "size": list(size)}


def test_the_largest_segments_are_kept() -> None:
    label_map, confidence = example()
    assert [s.label for s in answers.segments(label_map, confidence, NAMES, ask(top_k=2))] == ["sky", "grass"]
    weak = answers.segments(label_map, confidence, NAMES, ask(threshold=0.5, background="argmax"))
    assert [s.label for s in weak] == ["sky", "grass"], "the car's mean confidence is below the threshold"


def test_many_labels_take_16_bits() -> None:
    names = tuple(f"label {i}" for i in range(300))
    label_map = np.full((4, 5), 299, np.uint16)
    label_map[0] = 65535
    part = answers.label_map_part(label_map, names)
    stored = np.asarray(Image.open(io.BytesIO(base64.b64decode(part.png))))
    assert np.array_equal(stored, label_map)
    assert (part.class_map, part.void) == ({"299": "label 299"}, 65535)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_maps_are_small_files(kind: type) -> None:
    rows, columns = np.mgrid[:200, :300]
    label_map = ((rows + 9 * np.sin(columns / 11)) // 40 * 5 + (columns + 9 * np.cos(rows / 7)) // 50).astype(kind)
    data = answers.grey_png(label_map)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), label_map)
    plain = io.BytesIO()
    Image.fromarray(label_map).save(plain, format="PNG", compress_level=1)
    assert len(data) < 0.9 * len(plain.getvalue())
