"""Image towers of CLIP (vision transformers of open_clip) as image encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer
from torch import Tensor, nn

from ovseg_ray.errors import UserError
from ovseg_ray.networks.config import ViTConfig, pretrained_tag
from ovseg_ray.networks.image_encoder import read_weights, take_strictly
from ovseg_ray.networks.reassemble import resize_positions
from ovseg_ray.networks.token_encoder import TokenEncoder, TokenMaps
from ovseg_ray.vocabulary.open_clip_weights import find_weights

ARCHITECTURE = "ViT-B-16"
_SIZES = {"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio", "no_ln_pre"}
# what follows the last tap, or concerns training of the tower alone
_PASSED_BY = {"output_tokens", "pool_type", "patch_dropout", "final_ln_after_pool"}
_UNUSED = ("ln_post.", "proj")
_PREFIXES = ("towers.visual.", "visual.")  # in a CLIP trained here, in a model of open_clip


class ClipViTEncoder(TokenEncoder):
    """An open_clip vision transformer, its final norm and projection cut off.

    The paper notes that such a start is worse than ImageNet weights of the same size.
    """

    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)

    def __init__(self, config: ViTConfig) -> None:
        """
        Args:
            config: architecture, sizes that differ from it, taps.

        Raises:
            UserError: no such architecture, or one whose image tower is no plain vision transformer.
        """
        name = config.architecture or ARCHITECTURE
        sizes, quick_gelu = _sizes(name, config)
        super().__init__(TokenMaps.of(config, sizes["width"], sizes["patch_size"], sizes["layers"]))
        self._architecture, self._quick_gelu = name, quick_gelu
        self.visual = VisionTransformer(
            **sizes, output_dim=1, act_layer=QuickGELU if quick_gelu else nn.GELU, norm_layer=LayerNorm
        )
        self.visual.prune_intermediate_layers(list(self.maps.taps), prune_norm=True, prune_head=True)

    def tokens(self, images: Tensor) -> list[Tensor]:
        """Outputs of the tapped blocks."""
        visual = self.visual
        patches = visual.conv1(images)
        grid = (patches.shape[2], patches.shape[3])
        first = visual.class_embedding.expand(len(images), 1, -1)
        x = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)
        x = x + resize_positions(visual.positional_embedding[None], 1, visual.grid_size, grid)
        _, tapped = visual.transformer.forward_intermediates(visual.ln_pre(x), indices=list(self.maps.taps))
        return tapped

    def load_pretrained(self, weights: str | Path) -> None:
        """Take the image tower of a CLIP; its final norm and projection, and blocks past the last tap, are left.

        Args:
            weights: a safetensors file of open_clip or of a 'train clip' run, or "open_clip:TAG" of the architecture,
                fetched on first use.

        Raises:
            UserError: no such file or tag, or weights of another network.
        """
        tag = pretrained_tag(str(weights))
        state = read_weights(weights) if tag is None else self._published(tag[1])
        for prefix in _PREFIXES:
            if any(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        blocks = len(self.visual.transformer.resblocks)
        past = [k for k in state if k.startswith("transformer.resblocks.") and int(k.split(".")[2]) >= blocks]
        kept = {key: value for key, value in state.items() if not key.startswith(_UNUSED) and key not in past}
        take_strictly(self.visual, {key: value.float() for key, value in kept.items()}, weights)

    def _published(self, tag: str) -> dict[str, Tensor]:
        file, quick_gelu = find_weights(self._architecture, tag)
        if quick_gelu and not self._quick_gelu:
            raise UserError(
                f"model.encoder.weights = open_clip:{tag}: were trained with QuickGELU; "
                f"set model.encoder.vit.architecture to {self._architecture}-quickgelu"
            )
        whole = open_clip.create_model(self._architecture, pretrained=None)
        open_clip.load_checkpoint(whole, str(file))
        return dict(whole.state_dict())


def _sizes(name: str, config: ViTConfig) -> tuple[dict[str, Any], bool]:
    model: dict[str, Any] | None = open_clip.get_model_config(name)
    if model is None:
        raise UserError(f"model.encoder.vit.architecture = {name}: open_clip has none; open_clip.list_models() lists")
    vision = model["vision_cfg"]
    if not isinstance(vision.get("layers"), int) or set(vision) - _SIZES - _PASSED_BY:
        raise UserError(
            f"model.encoder.vit.architecture = {name}: its image tower is no plain vision transformer; "
            f"choose one such as {ARCHITECTURE}"
        )
    defaults = open_clip.CLIPVisionCfg(**vision)
    width = config.width or defaults.width
    sizes = {
        "image_size": config.image_size or defaults.image_size,
        "patch_size": config.patch_size or defaults.patch_size,
        "width": width,
        "layers": config.depth or defaults.layers,
        "heads": config.heads or max(1, width // defaults.head_width),
        "mlp_ratio": defaults.mlp_ratio,
        "no_ln_pre": defaults.no_ln_pre,
    }
    return sizes, bool(model.get("quick_gelu", False))
