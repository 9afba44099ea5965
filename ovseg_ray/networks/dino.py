"""DINO's vision transformers (Caron et al., ICCV 2021) as frozen feature extractors, on timm's blocks.

Keys are those of the published weights. What timm does otherwise is done here: how positions are resized.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

TRAINED_SIZE = 224
GRID_OFFSET = 0.1  # keeps floor(28 · scale) from falling one short; part of the weights' arithmetic by now

ORIGINAL_HEADS = 6

Kind = Literal["tokens", "keys", "original_keys"]


class DinoViT(nn.Module):
    """(B, 3, H, W) -> (B, C, H / P, W / P) features of the last block, without gradient.

    Args:
        width: C.
        depth: blocks.
        heads: attention heads.
        patch_size: P.
        mlp_ratio: of the hidden layer.
        kind: "tokens" after the last norm, or the last block's "keys" with heads one after another; "original_keys"
            takes every network to have 6 heads, as the original, which scrambles those of ViT-B.
    """

    def __init__(
        self,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        patch_size: int = 8,
        mlp_ratio: float = 4.0,
        kind: Kind = "tokens",
    ) -> None:
        super().__init__()
        self.model = VisionTransformer(
            img_size=TRAINED_SIZE, patch_size=patch_size, embed_dim=width, depth=depth, num_heads=heads,
            mlp_ratio=mlp_ratio, num_classes=0, global_pool="", dynamic_img_size=True,
        )  # fmt: skip
        self.channels, self.stride, self.kind = width, patch_size, kind
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> DinoViT:
        """Stays in eval mode."""
        return super().train(False)

    def positions(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows · columns, C): the class token's position, and the table resized to that grid."""
        table: Tensor = self.model.pos_embed
        side = math.isqrt(table.shape[1] - 1)
        if rows == columns == side:
            return table
        grid = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        # the factors, not the size, go into the sampling grid: with the size, all samples would shift
        factors = ((rows + GRID_OFFSET) / side, (columns + GRID_OFFSET) / side)
        resized = F.interpolate(grid, scale_factor=factors, mode="bicubic", align_corners=False)
        assert resized.shape[2:] == (rows, columns)
        return torch.cat([table[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)

    def embedded(self, images: Tensor) -> Tensor:
        """(B, 1 + hw, C) tokens that the first block sees."""
        patches = self.model.patch_embed(images)  # (B, h, w, C)
        rows, columns = patches.shape[1:3]
        tokens = torch.cat([self.model.cls_token.expand(len(images), -1, -1), patches.flatten(1, 2)], dim=1)
        return tokens + self.positions(rows, columns)

    @torch.no_grad()
    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """All tokens after the last norm, (B, 1 + hw, C), and q, k, v of the last block, (3, B, heads, 1 + hw, d)."""
        x = self.embedded(images)
        *first, last = self.model.blocks
        for block in first:
            x = block(x)
        attention = last.attn
        qkv = attention.qkv(last.norm1(x)).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.model.norm(last(x)), qkv

    def forward(self, images: Tensor) -> Tensor:
        """H and W must be multiples of P."""
        rows, columns = images.shape[2] // self.stride, images.shape[3] // self.stride
        tokens, qkv = self.tokens(images)
        if self.kind != "tokens":
            keys = qkv[1][:, :, 1:]
            if self.kind == "original_keys":
                keys = keys.reshape(len(images), ORIGINAL_HEADS, rows * columns, -1)
            return keys.transpose(2, 3).flatten(1, 2).unflatten(2, (rows, columns))
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (rows, columns))
