"""A small residual network that trains from scratch within minutes on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ray.networks.image_encoder import ImageEncoder, load_strictly

STEM_CHANNELS = 24
CLIP_PREFIX = "towers.visual.encoder."  # where a CLIP trained here keeps this encoder


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut (He et al. 2016, basic block)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.bn2(self.conv2(y)))


class SmallEncoder(ImageEncoder):
    """A stem to stride 4 and four residual stages."""

    std = (0.25, 0.25, 0.25)

    def __init__(self, channels: Sequence[int], blocks: Sequence[int], finest_stride: int = 4) -> None:
        """
        Args:
            channels: widths of the four stages.
            blocks: residual blocks of the four stages.
            finest_stride: 2 gives the stem's half-resolution map as well.
        """
        super().__init__()
        self.channels = tuple(channels)
        if finest_stride == 2:
            self.channels, self.strides = (STEM_CHANNELS, *channels), (2, 4, 8, 16, 32)
        self.stem = nn.Sequential(_conv(3, STEM_CHANNELS), _conv(STEM_CHANNELS, channels[0]))
        stages, inputs = [], channels[0]
        for index, (outputs, depth) in enumerate(zip(channels, blocks, strict=True)):
            strides = [1 if index == 0 else 2] + [1] * (depth - 1)
            widths = [inputs] + [outputs] * depth
            stages.append(
                nn.Sequential(*(ResidualBlock(widths[i], outputs, stride) for i, stride in enumerate(strides)))
            )
            inputs = outputs
        self.stages = nn.ModuleList(stages)

    def load_pretrained(self, weights: str | Path) -> None:
        """Take the weights of the image encoder in the `model/model.safetensors` of a 'train clip' run.

        Raises:
            UserError: no such file, not safetensors, or weights of another network.
        """
        load_strictly(self, weights, prefix=CLIP_PREFIX)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps at strides 4, 8, 16 and 32, with stride 2 in front where asked for."""
        half = self.stem[0](images)
        maps = [half] if self.strides[0] == 2 else []
        x = self.stem[1](half)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
