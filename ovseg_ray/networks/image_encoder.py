"""The contract of image encoders: pictures in, a pyramid of feature maps out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ovseg_ray.errors import UserError


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

    def load_pretrained(self, weights: str | Path) -> None:
        """Take weights from a safetensors file that has this encoder's own keys.

        Args:
            weights: a path, or for encoders that have published weights LIBRARY:TAG.

        Raises:
            UserError: no such file, not safetensors, weights of another network, or a tag that cannot be had.
        """
        load_strictly(self, weights)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: no such file, or not safetensors.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such weights file; give a safetensors file in model.encoder.weights")
    try:
        state: dict[str, torch.Tensor] = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); get it again") from error
    return state


def take_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load tensors whose keys and shapes are exactly those of `module`.

    Args:
        module: takes the weights.
        state: the tensors.
        source: what errors call them.

    Raises:
        UserError: weights of another network.
    """
    own = module.state_dict()
    for key in sorted(own.keys() | state.keys()):
        if key not in state or key not in own:
            where = "is missing" if key not in state else "is not part of the network"
            raise UserError(f"{source}: '{key}' {where}; give weights of the encoder that model.encoder.name says")
        if own[key].shape != state[key].shape:
            shapes = f"{tuple(state[key].shape)}, not {tuple(own[key].shape)}"
            raise UserError(f"{source}: '{key}' is {shapes}; give weights of the encoder that model.encoder.name says")
    module.load_state_dict(dict(state))


def load_strictly(module: nn.Module, path: str | Path, prefix: str = "") -> None:
    """Load a safetensors file whose keys and shapes are exactly those of `module`.

    Args:
        module: takes the weights.
        path: the file.
        prefix: part of a larger network to take: only keys that begin so count, without it.

    Raises:
        UserError: no such file, not safetensors, or weights of another network.
    """
    state = read_weights(path)
    take_strictly(module, {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, path)
