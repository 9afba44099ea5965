"""The fusion decoder of DPT (Ranftl et al. 2021) in LSeg's form: four maps in, one map of fixed width out."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def upsample2(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W), bilinear with aligned corners."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class ResidualConvUnit(nn.Module):
    """x + BN(conv3x3(ReLU(BN(conv3x3(ReLU(x))))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W), same size out."""
        return x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(F.relu(x))))))


class FusionBlock(nn.Module):
    """Adds a finer map to the coarser path, refines the sum, projects it and doubles its size."""

    def __init__(self, width: int, outputs: int | None = None, *, skip: bool = True) -> None:
        """
        Args:
            width: channels of both inputs.
            outputs: channels of the output; default `width`.
            skip: whether a finer map joins; the first block of a decoder has none.
        """
        super().__init__()
        self.skip_unit = ResidualConvUnit(width) if skip else None
        self.unit = ResidualConvUnit(width)
        self.out_conv = nn.Conv2d(width, outputs or width, 1)

    def fuse(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Everything before the projection: x + RCU1(skip), then RCU2. All (B, width, H, W)."""
        if self.skip_unit is not None and skip is not None:
            x = x + self.skip_unit(skip)
        return self.unit(x)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """(B, width, H, W) maps -> (B, outputs, 2H, 2W)."""
        # a 1x1 convolution commutes with bilinear upsampling: at the small size it costs a quarter
        return upsample2(self.out_conv(self.fuse(x, skip)))


class FusionDecoder(nn.Module):
    """Four maps at strides 4, 8, 16, 32 to one of `width` channels.

    The last block's projection (`fusion4.out_conv`) and upsampling are left to the caller, who can merge them with
    what follows: `forward` gives the map at stride 4. Where a map at stride 2 is given as well, it joins after the
    last block, `detail_width` wide, and `forward` gives that map at stride 2.
    """

    def __init__(self, channels: Sequence[int], width: int, detail_width: int = 32) -> None:
        """
        Args:
            channels: of the maps, finest first; four (strides 4..32) or five (2..32).
            width: of the decoder; 256 in the paper.
            detail_width: of the half-resolution map; unused with four maps.
        """
        super().__init__()
        *detail, c4, c8, c16, c32 = channels
        self.reduce = nn.ModuleList(nn.Conv2d(c, width, 3, 1, 1, bias=False) for c in (c4, c8, c16, c32))
        # named by the stride they work at
        self.fusion32 = FusionBlock(width, skip=False)
        self.fusion16 = FusionBlock(width)
        self.fusion8 = FusionBlock(width)
        self.fusion4 = FusionBlock(width, detail_width if detail else width)
        self.width = detail_width if detail else width
        self.detail_reduce = nn.Conv2d(detail[0], detail_width, 3, 1, 1, bias=False) if detail else None
        self.detail_unit = ResidualConvUnit(detail_width) if detail else None

    @property
    def projection(self) -> nn.Conv2d | None:
        """The 1x1 convolution that `forward` leaves to the caller; None where nothing is left."""
        return None if self.detail_reduce is not None else self.fusion4.out_conv

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The decoder without its last projection and upsampling.

        Returns:
            (B, width, H/4, W/4); with a half-resolution map (B, detail_width, H/2, W/2), nothing left to do.
        """
        *detail, m4, m8, m16, m32 = maps
        reduced = [conv(m) for conv, m in zip(self.reduce, (m4, m8, m16, m32), strict=True)]
        path = self.fusion32(reduced[3])
        path = self.fusion16(path, reduced[2])
        path = self.fusion8(path, reduced[1])
        if self.detail_reduce is None or self.detail_unit is None:
            return self.fusion4.fuse(path, reduced[0])
        path = self.fusion4(path, reduced[0])
        return self.detail_unit(path + self.detail_reduce(detail[0]))
