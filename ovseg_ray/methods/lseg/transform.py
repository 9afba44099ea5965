"""From a decoded sample to the tensors LSeg trains on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovseg_ray.data.sample import DecodedSample
from ovseg_ray.data.transforms import normalise, resize_exact, resize_long, resize_nearest
from ovseg_ray.errors import UserError
from ovseg_ray.methods.lseg import reference
from ovseg_ray.methods.lseg.config import AugmentationConfig
from ovseg_ray.methods.lseg.losses import IGNORE

LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel of RGB in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (3, H, W) float32."""
        return normalise(image, self.mean, self.std)


@dataclass(frozen=True)
class TrainingTransform:
    """Augments, normalises and pads to the crop: {"image", "target", "label_set"}."""

    config: AugmentationConfig
    normalise: Normalisation
    reference: bool = False

    def __call__(self, sample: DecodedSample, label_set: int, rng: np.random.Generator) -> dict[str, Any]:
        """
        Args:
            sample: with its mask in indices of the label set.
            label_set: index of that set.
            rng: source of every random draw.

        Returns:
            "image" (3, h, w) float32, "target" (h, w) int64 with -1 where ignored, "label_set" int.
        """
        mask = require_mask(sample)
        image, mask = self._window(sample.image, mask, rng)
        if rng.random() < self.config.flip:
            image, mask = image[:, ::-1], mask[:, ::-1]
        if self.config.color_jitter:
            image = color_jitter(image, self.config.color_jitter, rng)
        height, width = self.config.crop
        # the mean colour and "ignore": padding says nothing
        padded = torch.zeros(3, height, width)
        if self.reference:
            padded += reference.black(self.normalise.mean, self.normalise.std)
        padded[:, : image.shape[0], : image.shape[1]] = self.normalise(image)
        target = torch.full((height, width), IGNORE, dtype=torch.int64)
        target[: mask.shape[0], : mask.shape[1]] = torch.from_numpy(mask.copy())
        return {"image": padded, "target": target, "label_set": label_set}

    def _window(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if self.config.squash:
            if self.reference:
                return resize_exact(image, None, self.config.crop)[0], resize_nearest(mask, self.config.crop)
            image, sampled = resize_exact(image, mask, self.config.crop)
            assert sampled is not None  # a mask was given
            return image, sampled
        crop = reference.scale_crop if self.reference else random_scale_crop
        return crop(image, mask, self.config, rng)


@dataclass(frozen=True)
class PlainTransform:
    """The image as inference sees it and the mask at its own size."""

    normalise: Normalisation
    long_side: int | None
    squash: tuple[int, int] | None = None
    centre: tuple[int, int] | None = None

    def __call__(self, sample: DecodedSample, label_set: int, rng: np.random.Generator) -> dict[str, Any]:
        """As `TrainingTransform`; nothing is drawn, and "target" may be larger or smaller than "image".

        With `centre` both are the middle of the image, as the original validates.
        """
        if self.centre is not None:
            cut, mask = reference.centre_crop(sample.image, require_mask(sample), self.centre)
            return {"image": self.normalise(cut), "target": torch.from_numpy(mask.copy()), "label_set": label_set}
        image = self.image(sample.image)
        target = torch.from_numpy(require_mask(sample).copy())
        return {"image": image, "target": target, "label_set": label_set}

    def image(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 as the network's input: (3, h, w) float32."""
        if self.squash is not None:
            return self.normalise(resize_exact(image, None, self.squash)[0])
        return self.normalise(resize_long_side(image, self.long_side))


def require_mask(sample: DecodedSample) -> np.ndarray:
    """(H, W) int64 mask of a sample with -1 where it ignores.

    Raises:
        UserError: it has no mask.
    """
    if sample.mask is None:
        raise UserError(f"{sample.image_id}: has no mask, and LSeg trains on masks; remove it or give a mask")
    mask = sample.mask.astype(np.int64)
    mask[sample.mask == sample.ignore_index] = IGNORE
    return mask


def random_scale_crop(
    image: np.ndarray, mask: np.ndarray, config: AugmentationConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random window of a randomly scaled image; only the window is resized.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) integers.
        config: scale and crop.
        rng: source of the three draws.

    Returns:
        (h, w, 3) uint8 and (h, w), at most `config.crop`, smaller where the scaled image is.
    """
    low, high = config.scale
    factor = rng.uniform(low, high) if config.scale_draw == "uniform" else low * (high / low) ** rng.uniform()
    if config.base_size is not None:
        factor *= config.base_size / max(mask.shape)
    starts, extents, sizes = [], [], []
    for length, crop in zip(mask.shape, config.crop, strict=True):
        size = min(crop, max(1, round(length * factor)))
        extent = min(crop / factor, float(length))
        starts.append(rng.uniform(0.0, 1.0) * (length - extent))
        extents.append(extent)
        sizes.append(size)
    if starts == [0.0, 0.0] and tuple(sizes) == mask.shape:
        return image, mask
    (top, left), (tall, wide), (height, width) = starts, extents, sizes
    box = (left, top, left + wide, top + tall)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box)
    rows = np.minimum(top + (np.arange(height) + 0.5) * (tall / height), mask.shape[0] - 1).astype(np.int64)
    columns = np.minimum(left + (np.arange(width) + 0.5) * (wide / width), mask.shape[1] - 1).astype(np.int64)
    return np.asarray(resized), mask[rows[:, None], columns]


def color_jitter(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation of (H, W, 3) uint8, each by a factor within 1 ± strength."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    pixels = image.astype(np.float32) * brightness
    mean = pixels.mean()
    pixels = (pixels - mean) * contrast + mean
    grey = (pixels @ np.asarray(LUMA, np.float32))[:, :, None]
    return np.clip((pixels - grey) * saturation + grey, 0, 255).astype(np.uint8)


def resize_long_side(image: np.ndarray, long_side: int | None) -> np.ndarray:
    """(H, W, 3) uint8 with its long side resized to `long_side`, antialiased; None: as it is."""
    return image if long_side is None else resize_long(image, None, long_side)[0]
