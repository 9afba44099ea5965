"""Augmentation: what it keeps together, what it ignores, and that the generator decides."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from ovseg_ray.config import build
from ovseg_ray.data.sample import DecodedSample
from ovseg_ray.errors import UserError
from ovseg_ray.methods.lseg import LSeg, LSegConfig
from ovseg_ray.methods.lseg.transform import color_jitter, random_scale_crop, resize_long_side


def config(**augmentation: Any) -> LSegConfig:
    values = {"crop": [32, 48], "base_size": None, "scale": [1, 1], "flip": 0.0} | augmentation
    return build(LSegConfig, {"augmentation": values, "text": "table:unused.npz"})


def sample(height: int = 40, width: int = 60, dtype: type = np.uint8) -> DecodedSample:
    """Every pixel's colour is its class, so that image and mask can be compared."""
    mask = (np.indices((height, width)).sum(0) // 8 % 5).astype(dtype)
    image = np.repeat((mask * 50).astype(np.uint8)[:, :, None], 3, axis=2)
    mask[:4] = np.iinfo(dtype).max
    return DecodedSample("made", image, mask, ())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(40, 60), (10, 200), (1, 1), (32, 48)])
@pytest.mark.parametrize(
    "augmentation", [{}, {"scale": [0.5, 2.0], "flip": 0.5}, {"base_size": 100, "scale": [0.5, 2.0]}]
)
def test_examples_have_the_crops_size_and_the_masks_classes(
    dtype: type, size: tuple[int, int], augmentation: dict[str, Any]
) -> None:
    transform = LSeg.transform(config(**augmentation))
    for seed in range(5):
        example = transform(sample(*size, dtype=dtype), 3, np.random.default_rng(seed))
        assert example["image"].shape == (3, 32, 48)
        assert example["image"].dtype == torch.float32
        assert example["target"].shape == (32, 48)
        assert example["target"].dtype == torch.int64
        assert set(example["target"].unique().tolist()) <= {-1, 0, 1, 2, 3, 4}
        assert example["label_set"] == 3


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_image_and_mask_stay_together(flip: float) -> None:
    transform = LSeg.transform(config(scale=[0.7, 1.9], flip=flip))
    for seed in range(10):
        example = transform(sample(), 0, np.random.default_rng(seed))
        classes = ((example["image"][0] * 0.25 + 0.5) * 255 / 50).round().long()
        labelled = example["target"] >= 0
        # bilinear edges differ from nearest ones
        assert (classes[labelled] == example["target"][labelled]).float().mean() > 0.75


def test_a_whole_image_is_left_alone() -> None:
    example = LSeg.transform(config(crop=[40, 60]))(sample(), 0, np.random.default_rng(0))
    expected = sample().image[:, :, 0] / 255
    np.testing.assert_allclose(example["image"][0] * 0.25 + 0.5, expected, atol=1e-5)
    expected_mask = sample().mask
    assert expected_mask is not None
    assert (example["target"][4:].numpy() == expected_mask[4:]).all()
    assert (example["target"][:4] == -1).all()


def test_padding_says_nothing() -> None:
    example = LSeg.transform(config(crop=[64, 64]))(sample(), 0, np.random.default_rng(0))
    assert (example["target"][40:] == -1).all()
    assert (example["image"][:, 40:] == 0).all()


def test_the_generator_decides() -> None:
    transform = LSeg.transform(config(scale=[0.5, 2.0], flip=0.5, color_jitter=0.4))
    transform = pickle.loads(pickle.dumps(transform))  # it travels to loader processes
    images = [transform(sample(), 0, np.random.default_rng(seed))["image"] for seed in (1, 1, 2)]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_scale_is_relative_to_the_base_size() -> None:
    augmentation = config(base_size=120, scale=[1, 1], crop=[500, 500]).augmentation
    image, mask = random_scale_crop(
        np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60)), augmentation, np.random.default_rng(0)
    )
    assert image.shape == (80, 120, 3)
    assert mask.shape == (80, 120)


@pytest.mark.parametrize(("draw", "median"), [("uniform", 1.25), ("log_uniform", 1.0)])
def test_scales_are_drawn_as_asked(draw: str, median: float) -> None:
    augmentation = config(scale=[0.5, 2.0], scale_draw=draw, crop=[500, 500]).augmentation
    rng, image, mask = np.random.default_rng(0), np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60))
    scales = [random_scale_crop(image, mask, augmentation, rng)[1].shape[1] / 60 for _ in range(400)]
    assert 0.5 <= min(scales) < 0.55
    assert 1.9 < max(scales) <= 2.0
    assert np.median(scales) == pytest.approx(median, abs=0.1)


def test_jitter_keeps_the_range_and_changes_colours() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    changed = color_jitter(image, 0.5, np.random.default_rng(0))
    assert changed.dtype == np.uint8
    assert not np.array_equal(changed, image)


@pytest.mark.parametrize(
    ("shape", "long_side", "expected"),
    [((40, 60), None, (40, 60)), ((40, 60), 30, (20, 30)), ((60, 40), 120, (120, 80)), ((1, 500), 10, (1, 10))],
)
def test_long_side(shape: tuple[int, int], long_side: int | None, expected: tuple[int, int]) -> None:
    assert resize_long_side(np.zeros((*shape, 3), np.uint8), long_side).shape[:2] == expected


def test_plain_transform_keeps_the_masks_size() -> None:
    plain = config().model_copy(update={"long_side": 30})
    example = LSeg.transform(plain, training=False)(sample(), 1, np.random.default_rng(0))
    assert example["image"].shape == (3, 20, 30)
    assert example["target"].shape == (40, 60)


def test_a_sample_without_mask_is_named() -> None:
    without = DecodedSample("img 7", sample().image, None, ())
    with pytest.raises(UserError, match="img 7: has no mask"):
        LSeg.transform(config())(without, 0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"augmentation": {"scale": [2, 1]}}, "smaller one first"),
        ({"augmentation": {"crop": [0, 5]}}, "1 or more"),
        ({"augmentation": {"flips": 0.5}}, "did you mean 'augmentation.flip'"),
        ({"temperature": 0}, "temperature = 0"),
        ({"text": "opnclip:ViT-B-32:openai"}, "did you mean 'open_clip"),
    ],
)
def test_bad_configurations_are_explained(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(LSegConfig, values)


def test_paths_become_absolute(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    built = build(LSegConfig, {"text": "table:a.npz,b.npz", "encoder": {"weights": "w.safetensors"}})
    assert built.text == f"table:{tmp_path}/a.npz,{tmp_path}/b.npz"
    assert built.encoder.weights == f"{tmp_path}/w.safetensors"
