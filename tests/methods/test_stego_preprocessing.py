from __future__ import annotations

import numpy as np
import pytest
import torch
from stego_golden import Golden, close

from ovseg_ray.methods.stego.preprocessing import square, squeezed

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def as_input(pixels: np.ndarray) -> torch.Tensor:
    return ((torch.from_numpy(pixels.copy()) / 255 - MEAN) / STD).permute(2, 0, 1)


@pytest.mark.parametrize("name", ["land", "port", "odd"])
def test_original_preprocessing(name: str) -> None:
    golden = Golden("preprocess")
    image, label = golden[f"{name}_img"].numpy(), golden[f"{name}_label"].numpy()
    close(as_input(square(image, 32, "nearest")), golden[f"{name}_img_out"])
    assert np.array_equal(square(label, 32, "nearest"), golden[f"{name}_label_out"][0])
    close(as_input(squeezed(image, 32, "nearest")), golden[f"{name}_img_out_nocrop"])


def test_default_does_not_alias() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 254
    assert np.abs(square(stripes, 16).astype(int) - 127).max() < 12
    assert set(np.unique(square(stripes, 16, "nearest"))) <= {0, 254}
