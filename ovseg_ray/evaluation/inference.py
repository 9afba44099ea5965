"""How images are looked at in an evaluation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ovseg_ray.methods.base import Encoding, Method, Segmentation


class Encoded(Protocol):
    """All that is known of a batch of images before any label is named."""

    @abstractmethod
    def segment(self, text: Tensor, size: tuple[int, int]) -> Segmentation:
        """The best of N labels for every pixel.

        Args:
            text: (N, D) float32, L2-normalised, on the method's device.
            size: (H, W) of the images.
        """


class Inference(Protocol):
    """A way of looking at images; small and picklable, since it travels to workers."""

    @property
    @abstractmethod
    def description(self) -> str:
        """What the protocol of a result says of it."""

    @abstractmethod
    def encode(self, method: Method, images: Sequence[np.ndarray]) -> Encoded:
        """Run the network.

        Args:
            method: in evaluation mode.
            images: (H, W, 3) uint8, all of one size.
        """


class SingleScale(Inference):
    """Each image once, as the method preprocesses it."""

    @property
    def description(self) -> str:
        return "as the method preprocesses it (see model.config); single scale, no flip; scores upsampled to full size"

    def encode(self, method: Method, images: Sequence[np.ndarray]) -> Encoded:
        inputs = torch.stack([method.preprocess(image) for image in images])
        return _EncodedImages(method, method.encode(inputs.to(device_of(method))))


@dataclass(frozen=True)
class _EncodedImages(Encoded):
    method: Method
    encoding: Encoding

    def segment(self, text: Tensor, size: tuple[int, int]) -> Segmentation:
        return self.method.segment(self.encoding, text, size)


def device_of(method: Method) -> torch.device:
    """Where a method's parameters are."""
    return next((p.device for p in method.parameters()), torch.device("cpu"))
