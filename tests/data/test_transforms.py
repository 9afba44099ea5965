from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_ray.data.transforms import (
    colour_jitter,
    horizontal_flip,
    normalise,
    pad_to_multiple,
    random_scale_crop,
    remap_mask,
    resize_exact,
    resize_long,
    resize_short,
)


def pair(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red channel is its mask."""
    mask = np.random.default_rng(seed).integers(0, 20, (height, width), dtype=np.uint8)
    return np.repeat(mask[:, :, None], 3, axis=2), mask


SIDES = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.floats(0.1, 4.0), st.integers(0, 99))
def test_crop_has_its_size_and_pads_only_what_the_scaled_image_does_not_reach(
    height: int, width: int, crop_h: int, crop_w: int, scale: float, seed: int
) -> None:
    image, mask = pair(height, width)
    rng = np.random.default_rng(seed)
    cropped, target = random_scale_crop(
        image, mask, rng, scale=(scale, scale), crop=(crop_h, crop_w), pad_value=(9, 99, 199), ignore_index=77
    )
    assert cropped.shape == (crop_h, crop_w, 3)
    assert cropped.dtype == np.uint8
    assert target is not None
    assert target.shape == (crop_h, crop_w)
    assert target.dtype == np.uint8
    reach = tuple(min(c, max(1, round(n * scale))) for n, c in ((height, crop_h), (width, crop_w)))
    inside = np.zeros((crop_h, crop_w), bool)
    inside[: reach[0], : reach[1]] = True
    assert (target[~inside] == 77).all()
    assert (target[inside] != 77).all()
    assert (cropped[~inside] == (9, 99, 199)).all()
    assert set(np.unique(target[inside])) <= set(np.unique(mask))


def test_crop_at_scale_one_of_the_own_size_changes_nothing() -> None:
    image, mask = pair(7, 5)
    cropped, target = random_scale_crop(image, mask, np.random.default_rng(0), scale=(1, 1), crop=(7, 5))
    np.testing.assert_array_equal(cropped, image)
    np.testing.assert_array_equal(target, mask)


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.7])
def test_image_and_mask_are_cropped_from_the_same_place(scale: float) -> None:
    height, width = 60, 80
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 4, columns * 3, rows], axis=2).astype(np.uint8)
    mask = (rows // 10 * 8 + columns // 10).astype(np.uint8)
    for seed in range(5):
        cropped, target = random_scale_crop(
            image, mask, np.random.default_rng(seed), scale=(scale, scale), crop=(30, 30)
        )
        assert target is not None
        reconstructed = cropped[:, :, 0] // 4 // 10 * 8 + cropped[:, :, 1] // 3 // 10
        assert (reconstructed == target).mean() > 0.8  # all but the borders of cells, where bilinear blends
        inner = (cropped[:, :, 0] / 4 % 10 > 1.5) & (cropped[:, :, 0] / 4 % 10 < 8.5)
        inner &= (cropped[:, :, 1] / 3 % 10 > 1.5) & (cropped[:, :, 1] / 3 % 10 < 8.5)
        assert (reconstructed == target)[inner].all()


def test_the_generator_alone_decides_and_every_place_is_reached() -> None:
    image, mask = pair(30, 40)
    options = {"scale": (0.5, 2.0), "crop": (16, 16)}
    first = random_scale_crop(image, mask, np.random.default_rng(3), **options)
    again = random_scale_crop(image, mask, np.random.default_rng(3), **options)
    other = random_scale_crop(image, mask, np.random.default_rng(4), **options)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()
    columns = np.broadcast_to(np.arange(40, dtype=np.uint8), (30, 40))
    rng = np.random.default_rng(0)
    crops = [random_scale_crop(image, columns, rng, scale=(1, 1), crop=(30, 16))[1] for _ in range(200)]
    assert min(crop[0, 0] for crop in crops) == 0
    assert max(crop[0, -1] for crop in crops) == 39


def test_crop_without_a_mask() -> None:
    image, _ = pair(9, 9)
    cropped, target = random_scale_crop(image, None, np.random.default_rng(0), scale=(0.5, 2), crop=(4, 6))
    assert cropped.shape == (4, 6, 3)
    assert target is None


def test_flip_turns_both_or_neither() -> None:
    image, mask = pair(4, 5)
    rng = np.random.default_rng(0)
    flips = 0
    for _ in range(200):
        flipped, target = horizontal_flip(image, mask, rng)
        np.testing.assert_array_equal(flipped[:, :, 0], target)
        flips += int((target != mask).any())
    assert 70 < flips < 130
    assert horizontal_flip(image, None, rng, p=1.0)[1] is None
    assert horizontal_flip(image, mask, rng, p=0.0)[0] is image


class Draws:
    """A generator that gives what the test says."""

    def __init__(self, *values: float) -> None:
        self.values = np.array(values)

    def uniform(self, low: float, high: float, count: int) -> np.ndarray:
        assert (low, high, count) == (-1.0, 1.0, len(self.values))
        return self.values


def jittered(image: np.ndarray, draws: tuple[float, ...], **strengths: float) -> np.ndarray:
    return colour_jitter(image, Draws(*draws), **strengths)  # type: ignore[arg-type]


def test_jitter_of_no_strength_changes_nothing() -> None:
    image, _ = pair(5, 5)
    assert colour_jitter(image, np.random.default_rng(0)) is image
    np.testing.assert_array_equal(jittered(image, (0, 0, 0, 0), brightness=0.5, contrast=0.5, hue=0.5), image)


def test_brightness_contrast_and_saturation_are_what_they_say() -> None:
    image = np.random.default_rng(0).integers(60, 120, (8, 8, 3), dtype=np.uint8)
    grey = image @ np.array([0.299, 0.587, 0.114])
    mean = image[::4, ::4].mean((0, 1)) @ np.array([0.299, 0.587, 0.114])
    close = {"atol": 0.51, "rtol": 0}
    np.testing.assert_allclose(jittered(image, (1, 0, 0, 0), brightness=0.5), image * 1.5, **close)
    np.testing.assert_allclose(jittered(image, (0, -1, 0, 0), contrast=0.5), (image + mean) / 2, **close)
    np.testing.assert_allclose(jittered(image, (0, 0, -1, 0), saturation=1.0), np.dstack([grey] * 3), **close)
    assert (jittered(image, (-1, 0, 0, 0), brightness=2.0) == 0).all()  # never a negative picture


def test_hue_goes_round_and_keeps_luma() -> None:
    red = np.full((4, 4, 3), (120, 60, 60), np.uint8)
    third = jittered(red, (0, 0, 0, 1), hue=1 / 3)[0, 0]
    assert abs(third @ np.array([0.299, 0.587, 0.114]) - red[0, 0] @ np.array([0.299, 0.587, 0.114])) < 1.5
    turned = colorsys.rgb_to_hsv(*(third / 255))[0]
    assert min(abs(turned - 1 / 3), abs(turned - 2 / 3)) < 0.12
    np.testing.assert_allclose(jittered(red, (0, 0, 0, 1), hue=1.0), red, atol=1)


def test_jitter_draws_equally_whatever_is_switched_off() -> None:
    image, _ = pair(5, 5)
    after = []
    for strengths in ({}, {"hue": 0.1}, {"brightness": 0.4, "saturation": 0.4}):
        rng = np.random.default_rng(0)
        colour_jitter(image, rng, **strengths)
        after.append(rng.random())
    assert len(set(after)) == 1


@pytest.mark.parametrize(
    ("function", "side", "shape"),
    [(resize_short, 20, (20, 40)), (resize_long, 20, (10, 20)), (resize_long, 1, (1, 1)), (resize_short, 10, (10, 20))],
)
def test_resize_keeps_the_aspect(function, side: int, shape: tuple[int, int]) -> None:
    image, mask = pair(10, 20)
    resized, target = function(image, mask, side)
    assert resized.shape == (*shape, 3)
    assert target.shape == shape
    assert set(np.unique(target)) <= set(np.unique(mask))
    assert function(image, None, side)[1] is None


def test_resize_exact_enlarges_masks_by_repetition() -> None:
    image, mask = pair(3, 4)
    _, target = resize_exact(image, mask, (6, 12))
    np.testing.assert_array_equal(target, mask.repeat(2, 0).repeat(3, 1))
    assert resize_exact(image, mask, (3, 4))[0] is image


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, st.integers(1, 16))
def test_padding_reaches_the_next_multiple_and_keeps_the_rest(height: int, width: int, multiple: int) -> None:
    image, mask = pair(height, width)
    padded, target = pad_to_multiple(image, mask, multiple, pad_value=(1, 2, 3), ignore_index=200)
    assert target is not None
    for n, old in zip(target.shape, mask.shape, strict=True):
        assert n % multiple == 0
        assert 0 <= n - old < multiple
    np.testing.assert_array_equal(padded[:height, :width], image)
    np.testing.assert_array_equal(target[:height, :width], mask)
    assert (target == 200).sum() == target.size - mask.size
    assert (padded[height:] == (1, 2, 3)).all()


def test_normalise_is_the_formula_and_contiguous() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for view in (image, image[:, ::-1], image[:, :1][:, ::-1], image[:1, :1]):
        found = normalise(view, mean, std)
        assert found.dtype == torch.float32
        assert found.shape == (3, *view.shape[:2])
        assert found.is_contiguous()
        np.testing.assert_allclose(found.numpy().transpose(1, 2, 0), (view / 255 - mean) / std, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**31))
def test_remap_looks_up_every_class_and_ignores_the_rest(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dtype = np.uint8 if classes <= 255 else np.uint16
    ignore = np.iinfo(dtype).max
    mask = rng.integers(0, classes, (4, 6)).astype(dtype)
    mask[0, 0] = ignore
    targets = rng.integers(-1, 50, classes)
    found = remap_mask(mask[:, ::-1], targets)
    assert found.dtype == torch.int64
    assert found.is_contiguous()
    expected = [[-1 if v == ignore else targets[v] for v in row] for row in mask[:, ::-1]]
    assert found.tolist() == expected
