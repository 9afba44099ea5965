"""The original's arithmetic, for `model.reference`: where this package computes the same thing in another way."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovseg_ray.data.transforms import long_side_size
from ovseg_ray.methods.lseg.config import AugmentationConfig
from ovseg_ray.methods.lseg.correlation import SMALLEST_SQUARED_NORM


def rounded(x: Tensor) -> Tensor:
    """Float32 values that half precision can hold."""
    return x.half().float()


def half_pixels(pixels: Tensor, scale: float) -> Tensor:
    """The wide joint embedding as the original multiplies it: normalised, rounded, scaled, rounded.

    Args:
        pixels: (B, C, H, W) joint embeddings of pixels, any length.
        scale: factor on the cosine.

    Returns:
        (B, C, H, W) float16.
    """
    pixels = pixels.float()
    norms = pixels.square().sum(1, keepdim=True).clamp_min(SMALLEST_SQUARED_NORM).sqrt()
    # a tensor: a plain number would itself be rounded to half precision first
    return torch.tensor(scale, dtype=torch.float32, device=pixels.device) * (pixels / norms).half()


def half_text(text: Tensor) -> Tensor:
    """(K, C) label embeddings, normalised in half precision and given back as float32."""
    text = text.half()
    return (text / text.norm(dim=1, keepdim=True)).float()


def scale_crop(
    image: np.ndarray, mask: np.ndarray, config: AugmentationConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random crop, at whole pixels, of an image whose long side is resized to a random whole number.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) int64.
        config: scale and crop.
        rng: source of the three draws: long side (bounds inclusive), left, top.

    Returns:
        (h, w, 3) uint8 and (h, w) int64, at most `config.crop`, smaller where the resized image is.
    """
    base = config.base_size or max(mask.shape)
    long_side = int(rng.integers(int(base * config.scale[0]), int(base * config.scale[1]), endpoint=True))
    image, mask = resized(image, mask, long_side_size(mask.shape, max(1, long_side)))
    left = int(rng.integers(max(0, mask.shape[1] - config.crop[1]), endpoint=True))
    top = int(rng.integers(max(0, mask.shape[0] - config.crop[0]), endpoint=True))
    window = np.s_[top : top + config.crop[0], left : left + config.crop[1]]
    return image[window], mask[window]


def centre_crop(image: np.ndarray, mask: np.ndarray, crop: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The middle of an image whose short side is resized to that of the crop: what the original validates on.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) int64.
        crop: (h, w) of the result, equal in the original.
    """
    height, width = mask.shape
    side = min(crop)
    size = (side, int(1.0 * width * side / height)) if width > height else (int(1.0 * height * side / width), side)
    image, mask = resized(image, mask, size)
    top, left = (round((length - wanted) / 2.0) for length, wanted in zip(size, crop, strict=True))
    window = np.s_[max(top, 0) : max(top, 0) + crop[0], max(left, 0) : max(left, 0) + crop[1]]
    return image[window], mask[window]


def resized(image: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Image (bilinear) and mask (nearest) at (h, w), both as Pillow resizes them."""
    width_height = (size[1], size[0])
    image = np.asarray(Image.fromarray(image).resize(width_height, Image.Resampling.BILINEAR))
    sampled = Image.fromarray(mask.astype(np.int32)).resize(width_height, Image.Resampling.NEAREST)
    return image, np.asarray(sampled).astype(np.int64)


def black(mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """(3, 1, 1) float32: a black pixel after normalisation, what the original pads with."""
    return (-torch.tensor(mean) / torch.tensor(std)).view(3, 1, 1)
