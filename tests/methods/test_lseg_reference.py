"""The original's arithmetic: half-precision scores, black padding, crops at whole pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ovseg_ray.config import build
from ovseg_ray.data.sample import DecodedSample
from ovseg_ray.methods.lseg import LSeg, LSegConfig
from ovseg_ray.methods.lseg.config import AugmentationConfig
from ovseg_ray.methods.lseg.correlation import word_pixel_correlation
from ovseg_ray.methods.lseg.reference import black, half_pixels, half_text, rounded, scale_crop

GOLDEN = np.load(Path(__file__).parents[1] / "golden/lseg/correlation_loss.npz")
CONFIG = {"crop": [32, 48], "base_size": 50, "scale": [0.5, 2.0], "flip": 0.0}


def golden(name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[name])


def test_half_precision_scores_are_the_originals_to_the_last_bit() -> None:
    pixels = half_pixels(golden("pixel_features"), float(GOLDEN["logit_scale"]))
    assert pixels.dtype == torch.float16
    scores = rounded(torch.einsum("bchw,kc->bkhw", pixels.float(), half_text(golden("text_features"))))
    np.testing.assert_allclose(scores, GOLDEN["logits_half"], atol=1e-3)
    # the order of summation decides the rest
    assert (scores == golden("logits_half")).float().mean() > 0.97
    exact = word_pixel_correlation(golden("pixel_features"), golden("text_features"), float(GOLDEN["logit_scale"]))
    assert (exact == golden("logits_half")).float().mean() < 0.1
    upsampled = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=True)
    np.testing.assert_allclose(upsampled, GOLDEN["logits_half_upsampled"], atol=1e-3)


def test_gradients_pass_the_rounding() -> None:
    outputs = []
    for reference in (True, False):
        pixels = golden("pixel_features").requires_grad_()
        if reference:
            scores = torch.einsum(
                "bchw,kc->bkhw", half_pixels(pixels, 10.0).float(), half_text(golden("text_features"))
            )
        else:
            scores = word_pixel_correlation(pixels, golden("text_features"), 10.0)
        scores.square().sum().backward()
        assert pixels.grad is not None
        outputs.append(pixels.grad)
    assert (outputs[0] - outputs[1]).norm() < 0.01 * outputs[1].norm()


def picture(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8), rng.integers(-1, 5, (height, width))


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (3, 200), (1, 1)])
def test_crops_lie_at_whole_pixels_of_the_resized_image(size: tuple[int, int]) -> None:
    image, mask = picture(*size)
    config = build(AugmentationConfig, CONFIG)
    long_sides = set()
    for seed in range(30):
        long_side = int(np.random.default_rng(seed).integers(25, 100, endpoint=True))
        long_sides.add(long_side)
        factor = long_side / max(size)
        height, width = (max(1, int(length * factor + 0.5)) for length in size)
        whole = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        window, labels = scale_crop(image, mask, config, np.random.default_rng(seed))
        assert window.shape[:2] == labels.shape == (min(32, height), min(48, width))
        assert set(np.unique(labels)) <= set(range(-1, 5))
        h, w = labels.shape
        places = [
            (top, left)
            for top in range(height - h + 1)
            for left in range(width - w + 1)
            if np.array_equal(whole[top : top + h, left : left + w], window)
        ]
        assert places
    assert max(long_sides) > 80


def example(values: dict[str, Any], image: np.ndarray, mask: np.ndarray) -> dict[str, Tensor]:
    config = build(LSegConfig, {"text": "table:unused.npz", **values})
    transform = LSeg.transform(config)
    return transform(DecodedSample("made", image, mask.astype(np.uint8), ()), 0, np.random.default_rng(0))


def test_padding_is_black_and_ignored() -> None:
    image, mask = np.full((10, 20, 3), 128, np.uint8), np.zeros((10, 20))
    augmentation = CONFIG | {"base_size": 20, "scale": [1, 1]}
    for reference, colour in ((True, -2.0), (False, 0.0)):  # the small encoder's std is 0.25
        made = example({"augmentation": augmentation, "reference": reference}, image, mask)
        assert made["image"].shape == (3, 32, 48)
        assert made["image"][:, 10:].eq(colour).all()
        assert made["image"][:, :, 20:].eq(colour).all()
        assert made["target"][:10, :20].eq(0).all()
        assert made["target"].eq(-1).sum() == 32 * 48 - 200
    torch.testing.assert_close(black((0.5,) * 3, (0.5,) * 3), -torch.ones(3, 1, 1))


def test_squashed_images_fill_the_crop() -> None:
    image, mask = picture(100, 20)
    mask[:50], mask[50:] = 1, 2
    made = example({"augmentation": CONFIG | {"squash": True}}, image, mask)
    assert made["image"].shape == (3, 32, 48)
    assert made["target"][:16].eq(1).all()
    assert made["target"][16:].eq(2).all()
    plain = LSeg(build(LSegConfig, {"text": "table:unused.npz", "augmentation": CONFIG | {"squash": True}}))
    assert plain.preprocess(image).shape == (3, 32, 48)
