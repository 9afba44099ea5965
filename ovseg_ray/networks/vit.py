"""Vision transformers of timm (ViT, DINOv2 and their kin) as image encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ovseg_ray.errors import UserError
from ovseg_ray.networks.config import ViTConfig, pretrained_tag
from ovseg_ray.networks.image_encoder import read_weights, take_strictly
from ovseg_ray.networks.published import timm_file
from ovseg_ray.networks.reassemble import resize_positions
from ovseg_ray.networks.token_encoder import TokenEncoder, TokenMaps
from ovseg_ray.networks.token_linear import use_token_linears

ARCHITECTURE = "vit_large_patch16_384"  # of the paper's largest network
Triple = tuple[float, float, float]
_UNUSED = ("norm.", "fc_norm.", "head.")  # of timm's classifiers: behind the last tap


class ViTEncoder(TokenEncoder):
    """A `timm` VisionTransformer with a class token. Its final norm and head, and blocks past the last tap, are cut."""

    def __init__(self, config: ViTConfig, weights: str | None = None) -> None:
        """
        Args:
            config: architecture, sizes that differ from it, taps.
            weights: what will be loaded; "timm:TAG" decides how images are normalised.

        Raises:
            UserError: no such architecture, or one that is no plain vision transformer with a class token.
        """
        architecture = architecture_of(config)
        vit = _build(architecture, config)
        super().__init__(TokenMaps.of(config, vit.embed_dim, vit.patch_embed.patch_size[0], len(vit.blocks)))
        self._architecture = architecture
        self.mean, self.std = normalisation(config, weights)
        vit.prune_intermediate_layers(list(self.maps.taps), prune_norm=True, prune_head=True)
        use_token_linears(vit)
        self.vit = vit

    def embed(self, images: Tensor) -> Tensor:
        """What enters the first block: (B, prefix + h * w, width), positions added."""
        vit = self.vit
        patches = vit.patch_embed.proj(images)
        grid = (patches.shape[2], patches.shape[3])
        patches = vit.patch_embed.norm(patches.flatten(2).transpose(1, 2))
        prefix = [t.expand(len(images), -1, -1) for t in (vit.cls_token, vit.reg_token) if t is not None]
        positioned = 0 if vit.no_embed_class else vit.num_prefix_tokens
        positions = resize_positions(vit.pos_embed, positioned, vit.patch_embed.grid_size, grid)
        if vit.no_embed_class:
            tokens = torch.cat([*prefix, patches + positions], dim=1)
        else:
            tokens = torch.cat([*prefix, patches], dim=1) + positions
        return vit.norm_pre(vit.pos_drop(tokens))

    def tokens(self, images: Tensor) -> list[Tensor]:
        """Outputs of the tapped blocks without register tokens."""
        x = self.embed(images)
        registers = self.vit.num_prefix_tokens - 1
        tapped = []
        for index, block in enumerate(self.vit.blocks):
            x = block(x)
            if index in self.maps.taps:
                tapped.append(torch.cat([x[:, :1], x[:, 1 + registers :]], dim=1) if registers else x)
        return tapped

    def load_pretrained(self, weights: str | Path) -> None:
        """Take a classifier's weights in timm's layout; its final norm, its head and blocks past the last tap are left.

        Args:
            weights: a safetensors file, or "timm:TAG" of the architecture, fetched on first use.

        Raises:
            UserError: no such file or tag, or weights of another network.
        """
        tag = pretrained_tag(str(weights))
        path = Path(weights) if tag is None else timm_file(self._architecture, tag[1])
        blocks = len(self.vit.blocks)
        state = {key: value for key, value in read_weights(path).items() if not key.startswith(_UNUSED)}
        past = [k for k in state if k.startswith("blocks.") and int(k.split(".")[1]) >= blocks]
        take_strictly(self.vit, {key: value for key, value in state.items() if key not in past}, weights)


def architecture_of(config: ViTConfig) -> str:
    """timm's name of the architecture.

    Raises:
        UserError: timm has none of that name.
    """
    name = config.architecture or ARCHITECTURE
    if "." in name or not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0]}*")[:4]
        hint = f"did you mean one of {', '.join(near)}?" if near else "timm.list_models('vit*') lists them"
        raise UserError(f"model.encoder.vit.architecture = {name}: timm has no such model; {hint}")
    return name


def normalisation(config: ViTConfig, weights: str | None = None) -> tuple[Triple, Triple]:
    """(mean, std) that the named weights were trained with, or else the architecture's usual ones."""
    name, tag = architecture_of(config), pretrained_tag(weights or "")
    tagged = f"{name}.{tag[1]}" if tag else name
    published = timm.get_pretrained_cfg(tagged if timm.is_model_pretrained(tagged) else name)
    if published is None:
        return ViTEncoder.mean, ViTEncoder.std
    return published.mean, published.std


def _build(architecture: str, config: ViTConfig) -> Any:
    given = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
    }
    try:
        vit = timm.create_model(
            architecture, pretrained=False, num_classes=0, **{k: v for k, v in given.items() if v is not None}
        )
    except (TypeError, AssertionError) as error:  # another family of networks, which takes none of these
        raise UserError(
            f"model.encoder.vit.architecture = {architecture}: cannot be built with these sizes "
            f"({str(error) or type(error).__name__}); leave them out or choose a plain ViT"
        ) from error
    if not isinstance(vit, VisionTransformer) or vit.cls_token is None or vit.pos_embed is None:
        raise UserError(
            f"model.encoder.vit.architecture = {architecture}: is no plain vision transformer with a class token; "
            f"choose one such as {ARCHITECTURE} or vit_base_patch14_dinov2"
        )
    return vit
