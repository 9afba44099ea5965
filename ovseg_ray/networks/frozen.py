"""Frozen backbones: one feature map of an image, without gradient. What feature stores are made with."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from ovseg_ray.config import Config
from ovseg_ray.errors import UserError
from ovseg_ray.networks.building import build_image_encoder
from ovseg_ray.networks.config import BatchNormMode, Four, ImageEncoderConfig, pretrained_tag, weights_file

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

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
        None,
        description="safetensors file; dino, timm: also a directory of transformers, a published .pth, timm:TAG; "
        "null: random",
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
        _take(self.vit.model, weights, self._timm)

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
        _take(self.vit, weights, self._name.partition(".")[0])

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = images.shape[2] // self.stride, images.shape[3] // self.stride
        tokens = self.vit.forward_features(images)[:, self.vit.num_prefix_tokens :]
        return tokens.transpose(1, 2).unflatten(2, (rows, columns))


def _take(vit: VisionTransformer, weights: str, architecture: str) -> None:
    from ovseg_ray.networks.image_encoder import take_strictly
    from ovseg_ray.networks.layouts import as_timm, check_activation, read_state
    from ovseg_ray.networks.published import timm_file

    tag = pretrained_tag(weights)
    if tag and tag[0] != "timm":
        raise UserError(f"encoder.weights = {weights}: these encoders fetch timm:TAG; give that, a file or a directory")
    check_activation(weights, architecture)
    state = read_state(timm_file(architecture, tag[1]) if tag else weights)
    take_strictly(vit, as_timm(state, vit), weights)


def build_backbone(config: BackboneConfig) -> FrozenBackbone:
    """The backbone of a configuration, without its pretrained weights.

    Raises:
        UserError: an architecture that does not exist.
    """
    kinds: dict[str, Callable[[BackboneConfig], FrozenBackbone]] = {"dino": DinoBackbone.of, "timm": _Timm}
    built = kinds.get(config.name, _Pyramid)(config)
    built.requires_grad_(False)
    return built.train(False)


def weights_hash(weights: str | None) -> str:
    """16 hexadecimal digits over a weights file; a tag or nothing stands for itself."""
    if weights is None or pretrained_tag(weights):
        return str(weights)
    digest = hashlib.sha256()
    with weights_file(weights).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
