"""Names and shapes of the published code's state dict (section 9 of the specification), at any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Text:
    """CLIP's text tower."""

    width: int = 512
    layers: int = 12
    context: int = 77
    tokens: int = 49408


@dataclass(frozen=True)
class Layout:
    """An LSeg network; the defaults are ViT-L/16."""

    kind: Literal["vit", "resnet"] = "vit"
    width: int = 1024
    depth: int = 24
    patch: int = 16
    grid: int = 24
    channels: tuple[int, ...] = (256, 512, 1024, 1024)
    kernels: tuple[int, ...] = (4, 2, 0, -3)  # of a transposed convolution; 0: none; -3: a 3x3 convolution
    readout: bool = True
    blocks: tuple[int, ...] = (3, 4, 23, 3)  # of a ResNet's stages
    decoder: int = 256
    joint: int = 512
    head_block: bool = False
    text: Text | None = Text()

    def shapes(self) -> Shapes:
        """Every entry."""
        encoder = self._resnet() if self.kind == "resnet" else self._vit() | self._reassemble()
        return self._clip() | encoder | self._scratch()

    def state(self, prefix: str = "", seed: int = 0) -> dict[str, Tensor]:
        """Small random numbers for every entry; running variances are positive, the text tower is half."""
        generator = torch.Generator().manual_seed(seed)
        state = {}
        for key, shape in self.shapes().items():
            value = torch.randn(shape, generator=generator) * (0.2 if len(shape) < 2 else 0.2 / shape[-1] ** 0.5)
            if key.endswith("running_var"):
                value = value.abs() + 0.5
            elif key.endswith(("norm1.weight", "norm2.weight", "bn1.weight", "bn2.weight", "bn3.weight")):
                value = value + 1
            if key.endswith("num_batches_tracked"):
                value = torch.tensor(7)
            state[prefix + key] = value.half() if key.startswith("clip_pretrained.") else value
        return state

    def meta(self) -> dict[str, Tensor]:
        """The same without numbers."""
        return {
            key: torch.empty(shape, device="meta", dtype=torch.int64 if key.endswith("tracked") else torch.float32)
            for key, shape in self.shapes().items()
        }

    def count(self, prefix: str) -> int:
        """Numbers that are parameters below a prefix (no batch statistics)."""
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        return sum(
            torch.Size(shape).numel()
            for key, shape in self.shapes().items()
            if key.startswith(prefix) and not key.endswith(statistics)
        )

    def _clip(self) -> Shapes:
        if self.text is None:
            return {}
        width, joint = self.text.width, self.joint
        shapes: Shapes = {
            "positional_embedding": (self.text.context, width),
            "text_projection": (width, joint),
            "logit_scale": (),
            "token_embedding.weight": (self.text.tokens, width),
            **_norm("ln_final", width),
            **_transformer("transformer", width, self.text.layers),
            # the image tower, of any kind
            "visual.class_embedding": (8,),
            "visual.positional_embedding": (5, 8),
            "visual.proj": (8, joint),
            "visual.conv1.weight": (8, 3, 4, 4),
            **_norm("visual.ln_pre", 8),
            **_norm("visual.ln_post", 8),
            **_transformer("visual.transformer", 8, 12),
        }
        return {f"clip_pretrained.{key}": shape for key, shape in shapes.items()}

    def _vit(self) -> Shapes:
        d = self.width
        shapes: Shapes = {
            "cls_token": (1, 1, d),
            "pos_embed": (1, 1 + self.grid**2, d),
            **_layer("patch_embed.proj", d, 3, self.patch, self.patch),
            **_norm("norm", d),
            **_layer("head", 1000, d),
        }
        for index in range(self.depth):
            block = f"blocks.{index}"
            shapes |= _norm(f"{block}.norm1", d) | _norm(f"{block}.norm2", d)
            shapes |= _layer(f"{block}.attn.qkv", 3 * d, d) | _layer(f"{block}.attn.proj", d, d)
            shapes |= _layer(f"{block}.mlp.fc1", 4 * d, d) | _layer(f"{block}.mlp.fc2", d, 4 * d)
        return {f"pretrained.model.{key}": shape for key, shape in shapes.items()}

    def _reassemble(self) -> Shapes:
        shapes: Shapes = {}
        for tap, (c, kernel) in enumerate(zip(self.channels, self.kernels, strict=True), 1):
            name = f"pretrained.act_postprocess{tap}"
            if self.readout:
                shapes |= _layer(f"{name}.0.project.0", self.width, 2 * self.width)
            shapes |= _layer(f"{name}.3", c, self.width, 1, 1)
            if kernel:
                shapes |= _layer(f"{name}.4", c, c, abs(kernel), abs(kernel))
        return shapes

    def _resnet(self) -> Shapes:
        shapes: Shapes = {"pretrained.layer1.0.weight": (64, 3, 7, 7), **_batch_norm("pretrained.layer1.1", 64)}
        inputs = 64
        for stage, (blocks, width) in enumerate(zip(self.blocks, (64, 128, 256, 512), strict=True), 1):
            for block in range(blocks):
                name = f"pretrained.layer{stage}.{'4.' if stage == 1 else ''}{block}"
                for conv, shape in enumerate(
                    ((width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)), 1
                ):
                    shapes[f"{name}.conv{conv}.weight"] = shape
                    shapes |= _batch_norm(f"{name}.bn{conv}", shape[0])
                if block == 0:
                    shapes[f"{name}.downsample.0.weight"] = (4 * width, inputs, 1, 1)
                    shapes |= _batch_norm(f"{name}.downsample.1", 4 * width)
                inputs = 4 * width
        return shapes

    def _scratch(self) -> Shapes:
        d = self.decoder
        maps = (256, 512, 1024, 2048) if self.kind == "resnet" else self.channels
        shapes: Shapes = _layer("head1", self.joint, d, 1, 1)
        for index, channels in enumerate(maps, 1):
            shapes[f"layer{index}_rn.weight"] = (d, channels, 3, 3)
            shapes |= _layer(f"refinenet{index}.out_conv", d, d, 1, 1)
            for unit in (1, 2):
                for conv in (1, 2):
                    name = f"refinenet{index}.resConfUnit{unit}"
                    shapes[f"{name}.conv{conv}.weight"] = (d, d, 3, 3)
                    shapes |= _batch_norm(f"{name}.bn{conv}", d)
        if self.head_block:
            shapes |= _layer("head_block.depthwise.depthwise", 1, 1, 3, 3)
        return {f"scratch.{key}": shape for key, shape in shapes.items()}


def _layer(name: str, outputs: int, *rest: int) -> Shapes:
    return {f"{name}.weight": (outputs, *rest), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _batch_norm(name: str, width: int) -> Shapes:
    statistics: Shapes = {f"{name}.{key}": (width,) for key in ("running_mean", "running_var")}
    return _norm(name, width) | statistics | {f"{name}.num_batches_tracked": ()}


def _transformer(name: str, width: int, layers: int) -> Shapes:
    shapes: Shapes = {}
    for index in range(layers):
        block = f"{name}.resblocks.{index}"
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        shapes |= _layer(f"{block}.attn.out_proj", width, width)
        shapes |= _norm(f"{block}.ln_1", width) | _norm(f"{block}.ln_2", width)
        shapes |= _layer(f"{block}.mlp.c_fc", 4 * width, width) | _layer(f"{block}.mlp.c_proj", width, 4 * width)
    return shapes


VIT_B32 = Layout(width=768, depth=12, patch=32, grid=12, channels=(96, 192, 384, 768), kernels=(8, 4, 2, 0))
RN101 = Layout(kind="resnet")
TINY = Layout(
    width=32,
    depth=4,
    grid=4,
    channels=(8, 16, 24, 32),
    decoder=16,
    joint=16,
    text=Text(width=16, layers=1, context=12),
)
