from __future__ import annotations

import numpy as np
import pytest

from ovseg_ray.evaluation.palette import _lab, palette


@pytest.mark.parametrize(("count", "apart"), [(2, 60), (7, 26), (16, 26), (56, 25), (150, 15)])
def test_colours_are_far_apart(count: int, apart: float) -> None:
    lab = _lab(palette(count))
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e3 * np.eye(count)
    assert distance.min() > apart  # CIELAB; 2.3 is just noticeable


def test_a_label_keeps_its_colour() -> None:
    assert np.array_equal(palette(5), palette(200)[:5])
    assert palette(3).dtype == np.uint8
    assert palette(0).shape == (0, 3)


def test_more_labels_than_colours() -> None:
    assert palette(1000).shape == (1000, 3)
    assert len(np.unique(palette(256), axis=0)) == 256


def test_lab_of_known_colours() -> None:
    lab = _lab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], np.uint8))
    np.testing.assert_allclose(lab, [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.2]], atol=0.1)
