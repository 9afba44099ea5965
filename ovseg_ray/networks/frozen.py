"""Frozen backbones: one feature map of an image, without gradient. What feature stores are made with."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from ovseg_ray.config import Config
from ovseg_ray.errors import UserError
from ovseg_ray.networks.building import build_image_encoder
from ovseg_ray.networks.config import BatchNormMode, Four, ImageEncoderConfig, pretrained_tag

if TYPE_CHECKING:
    from ovseg_ray.networks.dino import DinoViT

Triple = tuple[float, float, float]
IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DINO_SIZES = {"vit_small": (384, 12, 6), "vit_base": (768, 12, 12)}
COARSEST = 32


def _absolute(weights: str) -> str:
    return weights if pretrained_tag(weights) else str(Path(weights).absolute())


class BackboneConfig(Config):
    """Which frozen backbone."""

    name: Literal["small", "mobilenet_v2", "resnet", "dino", "timm"] = Field(
        "small", description="small, mobilenet_v2, resnet: one map of an image encoder; dino, timm: tokens"
    )
    weights: Annotated[str, AfterValidator(_absolute)] | None = Field(
        None, description="safetensors file, timm:TAG (dino, timm), or for dino its published .pth; null: random"
    )
    architecture: str | None = Field(
        None,
        description="dino: vit_small_patch8 (default), vit_small_patch16, vit_base_patch8, vit_base_patch16; "
        "timm: a name such as vit_small_patch14_dinov2.lvd142m or vit_base_patch16_clip_224.openai",
    )
    stride: Literal[4, 8, 16, 32] = Field(16, description="of the map (small, mobilenet_v2, resnet)")
    channels: Four = Field((32, 64, 128, 192), description="stage widths (small)")
    kind: Literal["tokens", "keys", "original_keys"] = Field("tokens", description="of the last block (dino)")


class FrozenBackbone(nn.Module, ABC):
    """(B, 3, H, W) normalised images -> (B, channels, H / stride, W / stride), always in eval mode.

    Attributes:
        channels: C.
        stride: pixels of a place of the map.
        multiple: H and W must be multiples of it.
        mean: per channel of RGB in 0..1, subtracted from the input.
        std: the input is divided by it.
    """

    channels: int
    stride: int
    multiple: int
    mean: Triple
    std: Triple

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Stays in eval mode."""
        return super().train(False)

    @abstractmethod
    def load_pretrained(self, weights: str) -> None:
        """Take pretrained weights.

        Raises:
            UserError: no such file or tag, or weights of another network.
        """


class _Pyramid(FrozenBackbone):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        frozen: BatchNormMode | None = "freeze" if config.weights and config.name != "small" else None
        encoder = ImageEncoderConfig.model_validate(
            {"name": config.name, "channels": config.channels, "batch_norm": frozen}
        )
        self.encoder = build_image_encoder(encoder)
        self._level = self.encoder.strides.index(config.stride)
        self.channels, self.stride, self.multiple = self.encoder.channels[self._level], config.stride, COARSEST
        self.mean, self.std = self.encoder.mean, self.encoder.std

    def load_pretrained(self, weights: str) -> None:
        self.encoder.load_pretrained(weights)

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(images)[self._level]


class DinoBackbone(FrozenBackbone):
    """A vision transformer of DINO.

    Args:
        vit: of any size.
        architecture: name of its weights in timm.
    """

    mean, std = IMAGENET

    def __init__(self, vit: DinoViT, architecture: str = "vit_small_patch8") -> None:
        super().__init__()
        self.vit = vit
        self.channels, self.stride, self.multiple = vit.channels, vit.stride, vit.stride
        self._timm = f"{architecture}_224"
        self.requires_grad_(False)

    @classmethod
    def of(cls, config: BackboneConfig) -> DinoBackbone:
        """The published sizes.

        Raises:
            UserError: another architecture.
        """
        from ovseg_ray.networks.dino import DinoViT

        name = config.architecture or "vit_small_patch8"
        size, _, patch = name.rpartition("_patch")
        if size not in DINO_SIZES or patch not in ("8", "16"):
            raise UserError(f"encoder.architecture = {name}: DINO has vit_small and vit_base with _patch8 or _patch16")
        return cls(DinoViT(*DINO_SIZES[size], patch_size=int(patch), kind=config.kind), name)

    def load_pretrained(self, weights: str) -> None:
        from ovseg_ray.networks.image_encoder import read_weights, take_strictly
        from ovseg_ray.networks.published import timm_file

        tag = pretrained_tag(weights)
        if tag is not None or not weights.endswith(".pth"):
            state = read_weights(timm_file(self._timm, tag[1]) if tag else Path(weights))
        else:
            state = read_dino(Path(weights))
        take_strictly(self.vit.model, {k: v for k, v in state.items() if not k.startswith("head.")}, weights)

    def forward(self, images: Tensor) -> Tensor:
        return self.vit(images)


class _Timm(FrozenBackbone):
    def __init__(self, config: BackboneConfig) -> None:
        import timm
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        self._name = config.architecture or "vit_small_patch14_dinov2"
        try:
            vit = timm.create_model(self._name, num_classes=0, dynamic_img_size=True)
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"encoder.architecture = {self._name}: timm cannot build it ({error})") from error
        if not isinstance(vit, VisionTransformer):
            raise UserError(
                f"encoder.architecture = {self._name}: is no plain vision transformer; give one, such as vit_…"
            )
        self.vit = vit
        self.channels, self.stride = vit.embed_dim, vit.patch_embed.patch_size[0]
        self.multiple = self.stride
        cfg = vit.pretrained_cfg
        self.mean, self.std = tuple(cfg["mean"]), tuple(cfg["std"])

    def load_pretrained(self, weights: str) -> None:
        from ovseg_ray.networks.image_encoder import read_weights, take_strictly
        from ovseg_ray.networks.published import timm_file

        tag = pretrained_tag(weights)
        state = read_weights(timm_file(self._name.partition(".")[0], tag[1]) if tag else Path(weights))
        take_strictly(self.vit, {k: v for k, v in state.items() if not k.startswith("head.")}, weights)

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = images.shape[2] // self.stride, images.shape[3] // self.stride
        tokens = self.vit.forward_features(images)[:, self.vit.num_prefix_tokens :]
        return tokens.transpose(1, 2).unflatten(2, (rows, columns))


def build_backbone(config: BackboneConfig) -> FrozenBackbone:
    """The backbone of a configuration, without its pretrained weights.

    Raises:
        UserError: an architecture that does not exist.
    """
    kinds: dict[str, Callable[[BackboneConfig], FrozenBackbone]] = {"dino": DinoBackbone.of, "timm": _Timm}
    built = kinds.get(config.name, _Pyramid)(config)
    built.requires_grad_(False)
    return built.train(False)


def read_dino(path: Path) -> dict[str, Tensor]:
    """Tensors of a DINO checkpoint: as published, or the teacher of a training, without its prefixes.

    Raises:
        UserError: no such file, or not one of tensors alone.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # reading rubbish fails in any way at all: IndexError, UnicodeDecodeError, KeyError
        problem = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path}: cannot be read as weights ({problem}); give DINO's .pth or safetensors") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no weights by name; give DINO's .pth or safetensors")
    state = content.get("teacher", content)
    return {k.removeprefix("module.").removeprefix("backbone."): v for k, v in state.items() if isinstance(v, Tensor)}


def weights_hash(weights: str | None) -> str:
    """16 hexadecimal digits over a weights file; a tag or nothing stands for itself."""
    if weights is None or pretrained_tag(weights):
        return str(weights)
    digest = hashlib.sha256()
    with open(weights, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
