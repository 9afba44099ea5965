"""Evaluation at several scales, mirrored, in overlapping windows: how LSeg's tables on fixed labels were made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from ovseg_ray.config import Config, build, read_yaml
from ovseg_ray.data.transforms import resize_exact
from ovseg_ray.errors import UserError, did_you_mean
from ovseg_ray.evaluation.inference import Encoded, Inference, device_of
from ovseg_ray.evaluation.windows import Layer, Window
from ovseg_ray.methods.base import Encoding, Method, Segmentation
from ovseg_ray.methods.running import RunningArgmax

SCORES_AT_ONCE = 2**26  # elements of dense scores: 256 MiB in float32


class MultiScaleConfig(Config):
    """Which copies of an image are looked at."""

    scales: tuple[float, ...] = Field((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), min_length=1)
    flip: bool = Field(True, description="every window mirrored as well")
    base_size: int = Field(520, ge=1, description="long side at scale 1")
    crop: int = Field(480, ge=2, description="side of a window, that of the training's crops")
    original: bool = Field(
        False,
        description="as the original does it: the normalised image is resized without antialiasing, small images and "
        "the last windows are padded with black",
    )
    windows_at_once: int = Field(8, ge=1, description="windows, mirrored ones too, in one pass of the network")

    @model_validator(mode="after")
    def _check(self) -> MultiScaleConfig:
        if min(self.scales) <= 0:
            raise ValueError("scales must be positive")
        return self


_CITYSCAPES = {"scales": (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25), "base_size": 2048, "crop": 768}
PRESETS = {
    "ade20k": MultiScaleConfig(),
    "ade20k_original": MultiScaleConfig(original=True),
    "cityscapes": MultiScaleConfig.model_validate(_CITYSCAPES),
    "cityscapes_original": MultiScaleConfig.model_validate({**_CITYSCAPES, "original": True}),
}


def resolve_multi_scale(name: str) -> MultiScale:
    """A preset, or a YAML file with keys of `MultiScaleConfig`.

    Raises:
        UserError: neither, or a value that cannot be.
    """
    if name in PRESETS:
        return MultiScale(PRESETS[name])
    if Path(name).is_file():
        return MultiScale(build(MultiScaleConfig, read_yaml(name), name))
    hint = did_you_mean(name, PRESETS, f"presets: {', '.join(PRESETS)}")
    raise UserError(f"--multi-scale {name}: no such file or preset; {hint}")


@dataclass(frozen=True)
class MultiScale(Inference):
    """For each scale, the image with its long side at ceil(base_size × scale), in windows, each also mirrored.

    Scores of windows are averaged where they overlap, resized to the image and summed over scales and mirror images.
    """

    config: MultiScaleConfig

    @property
    def description(self) -> str:
        kept = self.config.model_dump(mode="json", exclude={"windows_at_once"})
        return "multi-scale: " + ", ".join(f"{key} {value}" for key, value in kept.items())

    def layers(self, height: int, width: int) -> list[Layer]:
        """The scaled copies of an image of that size, and the windows of each."""
        config = self.config
        sides = [math.ceil(config.base_size * scale) for scale in config.scales]
        return [Layer.of((height, width), side, config.crop, padded=config.original) for side in sides]

    def encode(self, method: Method, images: Sequence[np.ndarray]) -> EncodedWindows:
        layers = self.layers(*images[0].shape[:2])
        by_shape: dict[tuple[int, ...], list[tuple[_Place, Tensor]]] = {}
        for number, image in enumerate(images):
            for place, view in self._views(method, image, number, layers):
                by_shape.setdefault(view.shape, []).append((place, view))
        batches = []
        for views in by_shape.values():
            for start in range(0, len(views), self.config.windows_at_once):
                chunk = views[start : start + self.config.windows_at_once]
                inputs = torch.stack([view for _, view in chunk]).to(device_of(method))
                shape = (inputs.shape[2], inputs.shape[3])
                batches.append(_Batch([place for place, _ in chunk], method.encode(inputs), shape))
        return EncodedWindows(self.config, method, len(images), layers, batches)

    def _views(
        self, method: Method, image: np.ndarray, number: int, layers: Sequence[Layer]
    ) -> Iterator[tuple[_Place, Tensor]]:
        black = method.normalise(np.zeros((1, 1, 3), np.uint8))
        whole = method.normalise(image)
        for index, layer in enumerate(layers):
            if self.config.original:
                resized = F.interpolate(whole.unsqueeze(0), size=layer.size, mode="bilinear", align_corners=True)[0]
                canvas = _padded(resized, layer.canvas, black)
            else:
                canvas = method.normalise(resize_exact(image, None, layer.size)[0])
            for window in layer.windows:
                view = window.of(canvas)
                if self.config.original:
                    view = _padded(view, (self.config.crop, self.config.crop), black)
                yield _Place(number, index, window, mirrored=False), view
                if self.config.flip:
                    yield _Place(number, index, window, mirrored=True), view.flip(-1)


@dataclass(frozen=True)
class _Place:
    """Where a view belongs: image of the batch, layer, window of it."""

    image: int
    layer: int
    window: Window
    mirrored: bool


@dataclass(frozen=True)
class _Batch:
    """Views of one (h, w), and what the method knows of them."""

    places: list[_Place]
    encoding: Encoding
    shape: tuple[int, int]


@dataclass(frozen=True)
class EncodedWindows(Encoded):
    """All windows of a batch of images of one size, which any labels can be asked of."""

    config: MultiScaleConfig
    method: Method
    images: int
    layers: list[Layer]
    batches: list[_Batch]

    def scores(self, text: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores averaged over windows, summed over scales and mirror images.

        Args:
            text: (N, D) float32, L2-normalised.
            size: (H, W) of the images.

        Returns:
            (images, N, H, W) float32.
        """
        sums = [text.new_zeros(self.images, len(text), *layer.canvas) for layer in self.layers]
        for batch in self.batches:
            dense = self.method.dense_scores(batch.encoding, text, batch.shape)
            for place, scores in zip(batch.places, dense, strict=True):
                upright = scores.flip(-1) if place.mirrored else scores
                rows, columns = place.window.shape
                place.window.of(sums[place.layer][place.image]).add_(upright[:, :rows, :columns])
        total = text.new_zeros(self.images, len(text), *size)
        for layer, part in zip(self.layers, sums, strict=True):
            part = part.div_(layer.counts().to(part))[..., : layer.size[0], : layer.size[1]]
            # back by the rule that the image was resized by
            total += F.interpolate(part, size=size, mode="bilinear", align_corners=self.config.original)
        return total

    def segment(self, text: Tensor, size: tuple[int, int]) -> Segmentation:
        """Argmax of `scores`, lowest index at ties, and the softmax of their mean, in chunks of labels."""
        passes = len(self.config.scales) * (2 if self.config.flip else 1)
        running = RunningArgmax()
        for start, stop in self._chunks(len(text)):
            scores = self.scores(text[start:stop], size).div_(passes)
            top = scores.amax(1)
            index = start + (scores == top.unsqueeze(1)).to(torch.uint8).argmax(1)
            running.add(index, top, scores.sub_(top.unsqueeze(1)).exp_().sum(1))
        return Segmentation(*running.result())

    def _chunks(self, labels: int) -> Iterator[tuple[int, int]]:
        step = labels
        if not self.method.labels_interact:
            a_label = self.images * sum(math.prod(layer.canvas) for layer in self.layers)
            a_label += max(len(batch.places) * math.prod(batch.shape) for batch in self.batches)
            step = max(1, SCORES_AT_ONCE // a_label)
        yield from ((start, min(start + step, labels)) for start in range(0, labels, step))


def _padded(image: Tensor, size: tuple[int, int], value: Tensor) -> Tensor:
    if image.shape[1:] == size:
        return image
    padded = value.expand(-1, *size).clone()
    padded[:, : image.shape[1], : image.shape[2]] = image
    return padded
