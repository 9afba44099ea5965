"""What vision transformers have in common as image encoders: four taps, each reassembled to a map."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ray.errors import UserError
from ovseg_ray.networks.config import Readout, ViTConfig
from ovseg_ray.networks.image_encoder import ImageEncoder
from ovseg_ray.networks.reassemble import Reassemble


class TokenMaps(NamedTuple):
    """How the tokens of a transformer become maps.

    Attributes:
        width: channels of a token.
        patch: side of a patch in pixels.
        taps: blocks whose outputs are taken, 0-based, finest map first.
        channels: of the maps.
        readout: what becomes of the class token.
    """

    width: int
    patch: int
    taps: tuple[int, ...]
    channels: tuple[int, ...]
    readout: Readout

    @classmethod
    def of(cls, config: ViTConfig, width: int, patch: int, depth: int) -> TokenMaps:
        """What a configuration asks of a transformer of these sizes.

        Raises:
            UserError: patches of no usable size, or a tap past the last block.
        """
        if patch not in (14, 16, 32):
            raise UserError(
                f"model.encoder.vit.architecture: has patches of {patch} pixels, and maps can be made of 14, 16 or 32; "
                "choose another architecture or set model.encoder.vit.patch_size"
            )
        taps = config.taps or tuple((quarter + 1) * depth // 4 - 1 for quarter in range(4))
        if taps[-1] >= depth or taps[0] < 0:
            raise UserError(f"model.encoder.vit.taps = {list(taps)}: the network has blocks 0 to {depth - 1}")
        parts = (4, 2, 1, 1) if width >= 1024 else (8, 4, 2, 1)
        channels = config.channels or tuple(max(1, width // part) for part in parts)
        return cls(width, patch, taps, channels, config.readout)


class TokenEncoder(ImageEncoder):
    """A transformer whose raw block outputs (no final norm) are reassembled to maps at strides 4, 8, 16 and 32.

    With patches of 14 pixels the image is shrunk by 14 / 16 first, so that tokens lie at stride 16.
    """

    def __init__(self, maps: TokenMaps) -> None:
        super().__init__()
        self.maps = maps
        self.channels = maps.channels
        self._stride = 32 if maps.patch == 32 else 16
        self.reassemble = nn.ModuleList(
            Reassemble(maps.width, channels, self._stride, target, maps.readout)
            for channels, target in zip(maps.channels, self.strides, strict=True)
        )

    @abstractmethod
    def tokens(self, images: Tensor) -> list[Tensor]:
        """Outputs of the tapped blocks, (B, 1 + h * w, width) each, class token first; sides multiples of the patch."""

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps at strides 4, 8, 16 and 32."""
        grid = (images.shape[2] // self._stride, images.shape[3] // self._stride)
        size = (grid[0] * self.maps.patch, grid[1] * self.maps.patch)
        if images.shape[2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        tapped = self.tokens(images)
        return [reassemble(tokens, grid) for reassemble, tokens in zip(self.reassemble, tapped, strict=True)]
