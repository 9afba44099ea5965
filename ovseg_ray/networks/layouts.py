"""Weights of vision transformers as others name them: transformers, open_clip, the DINO repositories -> timm."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ovseg_ray.errors import UserError
from ovseg_ray.networks.config import weights_file
from ovseg_ray.networks.image_encoder import read_weights

CHECKPOINTS = (".pth", ".pt", ".bin")

# in front of an image tower's tensors: a CLIP trained here, open_clip, transformers' whole models
_PREFIXES = ("towers.visual.", "visual.", "vision_model.", "vit.", "dinov2.", "dinov2_with_registers.")
_DROPPED = re.compile(r"^(embeddings\.)?mask_token$|^(pooler|head|classifier)\.|^proj$|position_ids$")
_NAMES = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^embeddings\.cls_token$|^(embeddings\.)?class_embedding$", "cls_token"),
        (r"^embeddings\.register_tokens$", "register_tokens"),
        (r"^embeddings\.patch_embeddings\.projection\.|^embeddings\.patch_embedding\.|^conv1\.", "patch_embed.proj."),
        (r"^embeddings\.position_embeddings?(\.weight)?$|^positional_embedding$", "pos_embed"),
        (r"^(pre_layrnorm|ln_pre)\.", "norm_pre."),
        (r"^(layernorm|post_layernorm|ln_post)\.", "norm."),
        (r"^(encoder\.layers?|transformer\.resblocks)\.(\d+)\.", r"blocks.\2."),
        (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
        (r"\.self_attn\.q_proj\.", ".attn.query."),
        (r"\.self_attn\.k_proj\.", ".attn.key."),
        (r"\.self_attn\.v_proj\.", ".attn.value."),
        (r"\.attn\.in_proj_", ".attn.qkv."),
        (r"\.(attention\.output\.dense|self_attn\.out_proj|attn\.out_proj)\.", ".attn.proj."),
        (r"\.(intermediate\.dense|mlp\.c_fc|mlp\.weights_in|mlp\.w12)\.", ".mlp.fc1."),
        (r"\.(mlp\.c_proj|mlp\.weights_out|mlp\.w3)\.", ".mlp.fc2."),
        (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
        (r"\.(layernorm_before|layer_norm1|ln_1)\.", ".norm1."),
        (r"\.(layernorm_after|layer_norm2|ln_2)\.", ".norm2."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"\.ls_([12])\.gamma$", r".ls\1.gamma"),
    )
]
_QUERY = ".attn.query."


def read_state(weights: str | Path) -> dict[str, Tensor]:
    """The tensors of a backbone's weights, under the names of whoever wrote them.

    Args:
        weights: safetensors; a directory that transformers' `save_pretrained` wrote; or a `.pth`, `.pt` or `.bin` of
            tensors alone, as the DINO repositories publish (of a DINO training, the teacher).

    Raises:
        UserError: no such file, or not one of tensors alone.
    """
    path = weights_file(str(weights))
    return _read_checkpoint(path) if path.suffix in CHECKPOINTS else read_weights(path)


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # reading rubbish fails in any way at all: IndexError, UnicodeDecodeError, KeyError
        problem = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path}: cannot be read as weights ({problem}); give DINO's .pth or safetensors") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no weights by name; give DINO's .pth or safetensors")
    state = content.get("teacher", content)
    return {k.removeprefix("module.").removeprefix("backbone."): v for k, v in state.items() if isinstance(v, Tensor)}


def as_timm(state: Mapping[str, Tensor], model: VisionTransformer) -> dict[str, Tensor]:
    """Tensors of any of those layouts under timm's names, without what follows the last norm.

    Args:
        state: of one image tower, or of a whole model that has one.
        model: that is to take them. Nothing is resized: other sizes than its own are left for it to refuse.
    """
    prefix = next((p for p in _PREFIXES if any(key.startswith(p) for key in state)), "")
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    named = {_timm_name(key): value for key, value in own.items() if not _DROPPED.search(key)}
    for key in [key for key in named if _QUERY in key]:
        parts = [key.replace(_QUERY, f".attn.{part}.") for part in ("query", "key", "value")]
        if all(part in named for part in parts):
            named[key.replace(_QUERY, ".attn.qkv.")] = torch.cat([named.pop(part) for part in parts])
    for key in {"cls_token", "pos_embed"} & named.keys():  # (C,) and (N, C) in CLIPs
        named[key] = named[key].reshape(1, -1, named[key].shape[-1])
    if "register_tokens" in named:
        named["reg_token"] = named.pop("register_tokens")
        if model.no_embed_class and {"cls_token", "pos_embed"} <= named.keys():
            # these have a position for the class token as well; timm adds it beforehand
            named["cls_token"] = named["cls_token"] + named["pos_embed"][:, :1]
            named["pos_embed"] = named["pos_embed"][:, 1:]
    return {key: value.float() for key, value in named.items()}


def _timm_name(key: str) -> str:
    for pattern, name in _NAMES:
        key = pattern.sub(name, key)
    return key


def check_activation(weights: str | Path, architecture: str) -> None:
    """CLIP's first models were trained with QuickGELU, which no tensor tells; transformers' `config.json` does.

    Raises:
        UserError: the directory's activation is not the architecture's.
    """
    config = Path(weights) / "config.json"
    if not config.is_file():
        return
    try:
        content = json.loads(config.read_text())
        quick = content.get("vision_config", content).get("hidden_act") == "quick_gelu"
    except (ValueError, AttributeError) as error:
        raise UserError(f"{config}: no configuration of transformers ({error}); get it again") from error
    if quick != ("quickgelu" in architecture):
        kind, other = ("QuickGELU", "of its name with") if quick else ("GELU", "without")
        raise UserError(
            f"{weights}: was trained with {kind}; give the --architecture {other} _quickgelu, not {architecture}"
        )
