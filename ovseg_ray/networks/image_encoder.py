"""The contract of image encoders: pictures in, a pyramid of feature maps out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ovseg_ray.config import Config
from ovseg_ray.errors import UserError


def _absolute(path: str) -> str:
    # workers have another working directory
    return str(Path(path).absolute())


class ImageEncoderConfig(Config):
    """Which image encoder, and how it is used."""

    name: Literal["small", "mobilenet_v2"] = "small"
    weights: Annotated[str, AfterValidator(_absolute)] | None = Field(
        None, description="safetensors of pretrained weights; none: from scratch"
    )
    finest_stride: Literal[2, 4] = Field(4, description="2: give the decoder a map at half resolution as well")
    batch_norm: Literal["train", "freeze", "fold"] | None = Field(
        None,
        description="freeze: keep the pretrained statistics; fold: the same, merged into the convolutions; "
        "default: train from scratch, freeze pretrained",
    )
    channels: tuple[int, int, int, int] = Field((32, 64, 128, 192), description="stage widths (small)")
    blocks: tuple[int, int, int, int] = Field((1, 1, 1, 1), description="residual blocks of each stage (small)")

    @model_validator(mode="after")
    def _check(self) -> ImageEncoderConfig:
        if self.name == "small" and self.batch_norm not in (None, "train"):
            raise ValueError("the small encoder has no pretrained statistics to keep; leave batch_norm out")
        if min(*self.channels, *self.blocks) < 1:
            raise ValueError("channels and blocks must be 1 or more")
        return self


class ImageEncoder(nn.Module, ABC):
    """Maps (B, 3, H, W) normalised images, H and W multiples of the coarsest stride, to feature maps.

    Attributes:
        channels: width of each map, finest first.
        strides: of each map; (4, 8, 16, 32), with a 2 in front where a half-resolution map is given too.
        mean: per channel of RGB in 0..1, subtracted from the input.
        std: per channel of RGB in 0..1, the input is divided by it.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...] = (4, 8, 16, 32)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """One (B, channels[i], H / strides[i], W / strides[i]) map for each stride."""

    def load_pretrained(self, path: str | Path) -> None:
        """Take weights from a safetensors file that has this encoder's own keys.

        Raises:
            UserError: no such file, not safetensors, or weights of another network.
        """
        load_strictly(self, path)


def load_strictly(module: nn.Module, path: str | Path, prefix: str = "") -> None:
    """Load a safetensors file whose keys and shapes are exactly those of `module`.

    Args:
        module: takes the weights.
        path: the file.
        prefix: part of a larger network to take: only keys that begin so count, without it.

    Raises:
        UserError: no such file, not safetensors, or weights of another network.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such weights file; give a safetensors file in model.encoder.weights")
    try:
        state: dict[str, torch.Tensor] = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); get it again") from error
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    own = module.state_dict()
    for key in sorted(own.keys() | state.keys()):
        if key not in state or key not in own:
            where = "is missing" if key not in state else "is not part of the network"
            raise UserError(f"{path}: '{key}' {where}; give weights of the encoder that model.encoder.name says")
        if own[key].shape != state[key].shape:
            shapes = f"{tuple(state[key].shape)}, not {tuple(own[key].shape)}"
            raise UserError(f"{path}: '{key}' is {shapes}; give weights of the encoder that model.encoder.name says")
    module.load_state_dict(state)
