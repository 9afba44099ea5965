"""The original's arithmetic, for `model.reference`: where this package computes the same thing in another way."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

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
    height, width = mask.shape
    base = config.base_size or max(height, width)
    long_side = int(rng.integers(int(base * config.scale[0]), int(base * config.scale[1]), endpoint=True))
    factor = max(1, long_side) / max(height, width)
    height, width = (max(1, int(length * factor + 0.5)) for length in (height, width))
    image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    resized = Image.fromarray(mask.astype(np.int32)).resize((width, height), Image.Resampling.NEAREST)
    mask = np.asarray(resized).astype(np.int64)
    left = int(rng.integers(max(0, width - config.crop[1]), endpoint=True))
    top = int(rng.integers(max(0, height - config.crop[0]), endpoint=True))
    window = np.s_[top : top + config.crop[0], left : left + config.crop[1]]
    return image[window], mask[window]


def black(mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """(3, 1, 1) float32: a black pixel after normalisation, what the original pads with."""
    return (-torch.tensor(mean) / torch.tensor(std)).view(3, 1, 1)
