from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ovseg_ray.data.squares import square, squeezed

GOLDEN = np.load(Path(__file__).parents[1] / "golden/stego/preprocess.npz")
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def close_to_input(pixels: np.ndarray, expected: np.ndarray) -> None:
    found = ((pixels.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["land", "port", "odd"])
def test_original_preprocessing(name: str) -> None:
    image, label = GOLDEN[f"{name}_img"], GOLDEN[f"{name}_label"]
    close_to_input(square(image, 32, "nearest"), GOLDEN[f"{name}_img_out"])
    assert np.array_equal(square(label, 32, "nearest"), GOLDEN[f"{name}_label_out"][0])
    close_to_input(squeezed(image, 32, "nearest"), GOLDEN[f"{name}_img_out_nocrop"])


def test_default_does_not_alias() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 254
    assert np.abs(square(stripes, 16).astype(int) - 127).max() < 12
    assert set(np.unique(square(stripes, 16, "nearest"))) <= {0, 254}
