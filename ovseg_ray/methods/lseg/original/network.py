"""A state dict of the published code as a network of this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ovseg_ray.config import build
from ovseg_ray.errors import UserError
from ovseg_ray.methods.lseg.config import LSegConfig
from ovseg_ray.methods.lseg.model import LSeg
from ovseg_ray.methods.lseg.original.layout import (
    TEXT,
    Tensors,
    grouped,
    original_key,
    own_key,
    resnet_sizes,
    text_sizes,
    unused_group,
    vit_sizes,
)
from ovseg_ray.vocabulary import TextEncoder, build_text_encoder
from ovseg_ray.vocabulary.open_clip_encoder import OpenClipTextEncoder

HEAD_WIDTH = 64  # channels of an attention head in every published ViT and CLIP
TOKENS = 49408  # of CLIP's byte-pair tokenizer
ARCH_OPTIONS: dict[Any, Literal["bottleneck", "depthwise"]] = {1: "bottleneck", 2: "depthwise"}


@dataclass(frozen=True)
class Untold:
    """What tensors do not tell. None: what the file says of its training, else the published default.

    Attributes:
        heads: attention heads of the vision transformer; default: its width / 64.
        readout: "ignore" or "add" where the file has no projections; neither is a default.
        head_block: kind, where the file has one (arch_option 1 is bottleneck, 2 depthwise); neither is a default.
        block_depth: applications of the head block; 0 and 1 are both one; default 0.
        activation: between applications; default lrelu.
        text_heads: attention heads of the text tower; default: its width / 64.
        text: text encoder in place of the file's own, such as open_clip:ViT-B-32:openai.
    """

    heads: int | None = None
    readout: Literal["project", "ignore", "add"] | None = None
    head_block: Literal["bottleneck", "depthwise"] | None = None
    block_depth: int | None = None
    activation: Literal["relu", "lrelu", "tanh"] | None = None
    text_heads: int | None = None
    text: str | None = None


@dataclass(frozen=True)
class Conversion:
    """What came of a checkpoint.

    Attributes:
        method: in eval mode, with its text encoder.
        entries: tensors of the file.
        dropped: those that the output never depends on: group -> how many.
    """

    method: LSeg
    entries: int
    dropped: dict[str, int] = field(default_factory=dict)


def convert_state(
    state: Mapping[str, Tensor],
    untold: Untold | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    source: str = "checkpoint",
    text_spec: str | None = None,
    reference: bool = False,
) -> Conversion:
    """The network of a state dict.

    Args:
        state: original keys without "net.", as `layout` has them.
        untold: what tensors do not tell.
        settings: arguments of the training, as a Lightning file keeps them.
        source: what errors call the state.
        text_spec: what the model's configuration names as its text encoder.
        reference: `model.reference` of its configuration.

    Raises:
        UserError: a key that is unknown or missing, a shape that does not fit, or an option that is.
    """
    untold, tensors = untold or Untold(), Tensors(source, state)
    spec = text_spec or untold.text or LSegConfig.model_fields["text"].default
    values = {"text": spec, "reference": reference, **_network(tensors, untold, settings or {})}
    config = build(LSegConfig, values, f"{source}: model")
    encoder = _text_encoder(tensors, untold)
    unused = [key for key in state if unused_group(key) or (untold.text and key.startswith(TEXT))]
    with torch.device("meta"):  # every number comes from the file
        method = LSeg(config)
    method.load_state_dict(_fitting(method, tensors, set(unused)), assign=True)
    method.use_text_encoder(encoder)
    return Conversion(method.eval(), len(state), grouped(unused))


def _network(tensors: Tensors, untold: Untold, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "encoder": _encoder(tensors, untold),
        "width": tensors.shape("scratch.layer1_rn.weight")[0],
        "joint_width": tensors.shape("scratch.head1.weight")[0],
        "head_block": _head_block(tensors, untold, settings),
        "head_lr_scale": 10.0,
    }


def _encoder(tensors: Tensors, untold: Untold) -> dict[str, Any]:
    if tensors.has("pretrained.layer1."):
        return {"name": "resnet", "resnet": resnet_sizes(tensors)}
    if not tensors.has("pretrained.model."):
        raise UserError(f"{tensors.source}: holds no image encoder of LSeg ('pretrained.…'); give a checkpoint of LSeg")
    sizes = vit_sizes(tensors)
    projects = tensors.has("pretrained.act_postprocess1.0.project.")
    readout = untold.readout or ("project" if projects else None)
    if readout is None:
        raise UserError(
            f"{tensors.source}: has no readout projection, and tensors do not tell the other two apart; "
            "add --readout ignore or --readout add"
        )
    if projects != (readout == "project"):
        raise UserError(
            f"--readout {readout}: {tensors.source} has {'' if projects else 'no '}readout projections; "
            f"use {'project' if projects else 'ignore or add'}"
        )
    heads = _heads(sizes["width"], untold.heads, "--heads", tensors.source)
    return {"name": "vit", "vit": {**sizes, "heads": heads, "readout": readout}}


def _heads(width: int, given: int | None, option: str, source: str) -> int:
    heads = given or width // HEAD_WIDTH
    if heads < 1 or width % heads or (given is None and width % HEAD_WIDTH):
        raise UserError(f"{source}: {width} channels, and tensors do not tell the attention heads; give {option} N")
    return heads


def _head_block(tensors: Tensors, untold: Untold, settings: Mapping[str, Any]) -> dict[str, Any]:
    if not tensors.has("scratch.head_block."):
        if untold.head_block:
            raise UserError(f"--head-block {untold.head_block}: {tensors.source} has no head block; leave it out")
        return {"kind": "none"}
    kind = untold.head_block or ARCH_OPTIONS.get(settings.get("arch_option"))
    if kind is None:
        raise UserError(
            f"{tensors.source}: has a head block, and tensors do not tell which; "
            "add --head-block bottleneck (arch_option 1) or --head-block depthwise (arch_option 2)"
        )
    depth = untold.block_depth if untold.block_depth is not None else settings.get("block_depth")
    activation = untold.activation or settings.get("activation")
    return {
        "kind": kind,
        "depth": max(1, depth if isinstance(depth, int) else 0),
        "activation": activation if activation in ("relu", "lrelu", "tanh") else "lrelu",
    }


def _text_encoder(tensors: Tensors, untold: Untold) -> TextEncoder:
    if untold.text:
        return build_text_encoder(untold.text)
    if not tensors.has(TEXT):
        raise UserError(
            f"{tensors.source}: holds no text tower ('{TEXT}…'); name one with --text open_clip:ViT-B-32:openai"
        )
    sizes = text_sizes(tensors)
    text = sizes["text_cfg"]
    if text["vocab_size"] != TOKENS:
        raise UserError(
            f"{tensors.source}: a text tower of {text['vocab_size']} tokens, CLIP's has {TOKENS}; give --text"
        )
    text["heads"] = _heads(text["width"], untold.text_heads, "--text-heads", tensors.source)
    # OpenAI's towers, the only ones the original loads, are trained with QuickGELU
    architecture = {**sizes, "quick_gelu": True, "custom_text": False}
    weights = {
        key.removeprefix(TEXT): value.float()
        for key, value in tensors.state.items()
        if key.startswith(TEXT) and not unused_group(key)
    }
    try:
        return OpenClipTextEncoder(architecture, weights)
    except (ValueError, RuntimeError) as error:
        problem = " ".join(str(error).split())[:160]
        raise UserError(
            f"{tensors.source}: its text tower is no CLIP text transformer ({problem}); give --text"
        ) from error


def _fitting(method: LSeg, tensors: Tensors, unused: set[str]) -> dict[str, Tensor]:
    """The state of the network under our names, complete and of the right shapes."""
    wanted = method.state_dict()
    state = {}
    for key, value in tensors.state.items():
        if key in unused or key.startswith(TEXT):
            continue
        name = own_key(key)
        if name not in wanted:
            raise UserError(f"{tensors.source}: '{key}' is no part of this LSeg network; give a checkpoint of LSeg")
        if value.shape != wanted[name].shape:
            shapes = f"{tuple(value.shape)}, not {tuple(wanted[name].shape)}"
            raise UserError(f"{tensors.source}: '{key}' is {shapes}; give a checkpoint of LSeg")
        state[name] = value.float().clone() if value.is_floating_point() else value.clone()
    for name in wanted:
        if name not in state:
            raise UserError(f"{tensors.source}: '{original_key(name)}' is missing; give a whole checkpoint of LSeg")
    return state
