from __future__ import annotations

import numpy as np
import pytest

from ovseg_ray.evaluation.overlay import boundaries, overlay
from ovseg_ray.evaluation.palette import palette


def test_colours_lie_where_the_labels_are() -> None:
    image = np.full((400, 500, 3), 200, np.uint8)
    label_map = np.zeros((400, 500), np.uint8)
    label_map[:, 250:] = 1
    picture = np.asarray(overlay(image, label_map, ["a", "b"], legend=False, opacity=1.0))
    assert picture.shape == (400, 500, 3)
    assert picture[10, 10].tolist() == palette(2)[0].tolist()
    assert picture[10, 490].tolist() == palette(2)[1].tolist()
    assert picture[10, 249].tolist() == [255, 255, 255]


def test_ignored_pixels_keep_the_image() -> None:
    image = np.full((400, 400, 3), 77, np.uint8)
    label_map = np.full((400, 400), 255, np.uint8)
    assert (np.asarray(overlay(image, label_map, ["a"], legend=False)) == 77).all()
    assert overlay(image, label_map, ["a"]).width > 400


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (96, 96), (2, 2)])
@pytest.mark.parametrize("labels", [1, 40])
def test_any_size_and_number_of_labels(shape: tuple[int, int], labels: int) -> None:
    label_map = (np.arange(shape[0] * shape[1]) % labels).reshape(shape).astype(np.uint8)
    names = [f"label {i} 天空 " + "x" * i * 3 for i in range(labels)]
    picture = overlay(np.zeros((*shape, 3), np.uint8), label_map, names)
    assert max(picture.size) >= 384
    assert picture.mode == "RGB"


def test_boundaries() -> None:
    label_map = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    assert boundaries(label_map).astype(int).tolist() == [[0, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert not boundaries(np.zeros((4, 4))).any()
