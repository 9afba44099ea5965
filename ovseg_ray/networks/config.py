"""Configuration of image encoders: which network, its sizes, where its weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ovseg_ray.config import Config

Readout = Literal["project", "ignore", "add"]
BatchNormMode = Literal["train", "freeze", "fold"]
Four = tuple[int, int, int, int]
SAVED = "model.safetensors"  # what transformers' save_pretrained writes
TAG_KINDS = ("timm", "open_clip", "torchvision")  # whose published weights `weights` may name


def _absolute(weights: str) -> str:
    # workers have another working directory
    return weights if pretrained_tag(weights) else str(Path(weights).absolute())


def pretrained_tag(weights: str) -> tuple[str, str] | None:
    """(library, tag) of weights such as "timm:augreg_in21k_ft_in1k"; None for the path of a file."""
    kind, colon, tag = weights.partition(":")
    return (kind, tag) if colon and kind in TAG_KINDS and tag else None


def weights_file(weights: str) -> Path:
    """The file of weights, which may be the directory of a model that transformers saved."""
    path = Path(weights)
    return path / SAVED if path.is_dir() else path


class ViTConfig(Config):
    """A vision transformer, and how four maps are made of its tokens (Ranftl et al. 2021, section 3)."""

    architecture: str | None = Field(
        None,
        description="vit: a name of timm's, such as vit_base_patch14_dinov2, null: vit_large_patch16_384; "
        "clip_vit: a name of open_clip's, null: ViT-B-16",
    )
    image_size: int | None = Field(None, ge=1, description="side the stored positions are for; null: its own")
    patch_size: int | None = Field(None, description="14, 16 or 32 pixels; null: its own")
    width: int | None = Field(None, ge=1, description="channels of a token; null: its own")
    depth: int | None = Field(None, ge=1, description="blocks; null: its own")
    heads: int | None = Field(None, ge=1, description="attention heads; null: its own")
    taps: Four | None = Field(
        None, description="blocks whose outputs become maps, 0-based, finest map first; null: the ends of four quarters"
    )
    channels: Four | None = Field(
        None,
        description="of the maps, finest first; null: 1/4, 1/2, 1 and 1 of a width from 1024, else 1/8, 1/4, 1/2 and 1",
    )
    readout: Readout = Field("project", description="what becomes of the class token")

    @model_validator(mode="after")
    def _check(self) -> ViTConfig:
        if self.patch_size not in (None, 14, 16, 32):
            raise ValueError(f"patch_size = {self.patch_size}: the maps need patches of 14, 16 or 32 pixels")
        if self.width and self.heads and self.width % self.heads:
            raise ValueError(f"heads = {self.heads} must divide width = {self.width}")
        if self.taps and (min(self.taps) < 0 or list(self.taps) != sorted(set(self.taps))):
            raise ValueError("taps must be four ascending block indices from 0")
        if self.channels and min(self.channels) < 1:
            raise ValueError("channels must be 1 or more")
        return self


class ResNetConfig(Config):
    """A residual network in torchvision's layout; the defaults are ResNet-101."""

    block: Literal["basic", "bottleneck"] = "bottleneck"
    blocks: Four = Field((3, 4, 23, 3), description="blocks of each stage")

    @model_validator(mode="after")
    def _check(self) -> ResNetConfig:
        if min(self.blocks) < 1:
            raise ValueError("blocks must be 1 or more")
        return self


class ImageEncoderConfig(Config):
    """Which image encoder, and how it is used."""

    name: Literal["small", "mobilenet_v2", "vit", "clip_vit", "resnet"] = "small"
    weights: Annotated[str, AfterValidator(_absolute)] | None = Field(
        None,
        description="pretrained weights: a safetensors file, or published ones, fetched on first use: timm:TAG (vit), "
        "open_clip:TAG (clip_vit), torchvision:TAG (resnet); null: from scratch",
    )
    finest_stride: Literal[2, 4] = Field(
        4, description="2: give the decoder a map at half resolution as well (small, mobilenet_v2)"
    )
    batch_norm: BatchNormMode | None = Field(
        None,
        description="freeze: keep the pretrained statistics; fold: the same, merged into the convolutions; "
        "default: train from scratch, freeze pretrained",
    )
    channels: Four = Field((32, 64, 128, 192), description="stage widths (small)")
    blocks: Four = Field((1, 1, 1, 1), description="residual blocks of each stage (small)")
    vit: ViTConfig = ViTConfig()
    resnet: ResNetConfig = ResNetConfig()

    @model_validator(mode="after")
    def _check(self) -> ImageEncoderConfig:
        if self.name == "small" and self.batch_norm not in (None, "train"):
            raise ValueError("the small encoder has no pretrained statistics to keep; leave batch_norm out")
        if self.name in ("vit", "clip_vit") and self.batch_norm is not None:
            raise ValueError(f"the {self.name} encoder has no batch norm; leave batch_norm out")
        if self.finest_stride == 2 and self.name not in ("small", "mobilenet_v2"):
            raise ValueError(f"the {self.name} encoder has no map at half resolution; set finest_stride to 4")
        if min(*self.channels, *self.blocks) < 1:
            raise ValueError("channels and blocks must be 1 or more")
        self._check_tag()
        return self

    def _check_tag(self) -> None:
        tag = pretrained_tag(self.weights) if self.weights else None
        kind = {"vit": "timm", "clip_vit": "open_clip", "resnet": "torchvision"}.get(self.name)
        if tag and tag[0] != kind:
            allowed = f"{kind}:TAG or a safetensors file" if kind else "a safetensors file"
            raise ValueError(f"weights = {self.weights}: the {self.name} encoder takes {allowed}")
