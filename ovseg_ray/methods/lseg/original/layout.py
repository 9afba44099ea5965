"""The original's names of tensors and ours, and the sizes that tensors tell."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ovseg_ray.errors import UserError

TEXT = "clip_pretrained."
# what the output never depends on, and how a summary calls it
UNUSED = (
    "clip_pretrained.visual.",  # CLIP's whole image tower
    "clip_pretrained.logit_scale",  # LSeg has its own constant
    "pretrained.model.norm.",  # taps are raw block outputs
    "pretrained.model.head.",
    "scratch.refinenet4.resConfUnit1.",  # never executed
)


def _renames() -> dict[str, str]:
    names = {
        "pretrained.model.": "encoder.vit.",
        "pretrained.layer1.0.": "encoder.resnet.conv1.",
        "pretrained.layer1.1.": "encoder.resnet.bn1.",
        "pretrained.layer1.4.": "encoder.resnet.layer1.",
        "scratch.head1.": "head.",
        "scratch.head_block.depthwise.depthwise.": "block.conv.",
    }
    for tap in range(1, 5):
        reassemble, fusion = f"encoder.reassemble.{tap - 1}", f"decoder.fusion{2 ** (tap + 1)}"
        names |= {
            f"pretrained.act_postprocess{tap}.0.project.0.": f"{reassemble}.readout.",
            f"pretrained.act_postprocess{tap}.3.": f"{reassemble}.project.",
            f"pretrained.act_postprocess{tap}.4.": f"{reassemble}.resample.",
            f"scratch.layer{tap}_rn.": f"decoder.reduce.{tap - 1}.",
            f"scratch.refinenet{tap}.out_conv.": f"{fusion}.out_conv.",
            f"scratch.refinenet{tap}.resConfUnit1.": f"{fusion}.skip_unit.",
            f"scratch.refinenet{tap}.resConfUnit2.": f"{fusion}.unit.",
        }
        if tap > 1:
            names[f"pretrained.layer{tap}."] = f"encoder.resnet.layer{tap}."
    return names


RENAMES = _renames()


def own_key(original: str) -> str | None:
    """Our name of an original tensor; None for one that has no place here."""
    for old, new in RENAMES.items():
        if original.startswith(old):
            return new + original.removeprefix(old)
    return None


def original_key(own: str) -> str:
    """The inverse of `own_key`."""
    for old, new in RENAMES.items():
        if own.startswith(new):
            return old + own.removeprefix(new)
    return own


def unused_group(original: str) -> str | None:
    """The group of tensors that an unused one belongs to, as `UNUSED` has it."""
    return next((group for group in UNUSED if original.startswith(group)), None)


class Tensors:
    """The tensors of a file, with errors that name the one that is missing."""

    def __init__(self, source: str, state: Mapping[str, Tensor]) -> None:
        self.source = source
        self.state = state

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a tensor.

        Raises:
            UserError: the file has none of that name.
        """
        if key not in self.state:
            raise UserError(f"{self.source}: '{key}' is missing; give a whole checkpoint of LSeg")
        return tuple(self.state[key].shape)

    def count(self, prefix: str) -> int:
        """How many numbered parts "PREFIX0.", "PREFIX1.", ... there are."""
        found = {match[1] for key in self.state if (match := re.match(re.escape(prefix) + r"(\d+)\.", key))}
        return len(found)

    def has(self, prefix: str) -> bool:
        """Whether any name begins so."""
        return any(key.startswith(prefix) for key in self.state)


def vit_sizes(tensors: Tensors) -> dict[str, Any]:
    """Sizes of the vision transformer, as `ViTConfig` has them, without heads and readout.

    Raises:
        UserError: a tensor is missing, or positions that are no square grid.
    """
    width = tensors.shape("pretrained.model.cls_token")[-1]
    patch = tensors.shape("pretrained.model.patch_embed.proj.weight")[-1]
    positions = tensors.shape("pretrained.model.pos_embed")[1] - 1
    side = math.isqrt(positions)
    if side * side != positions:
        raise UserError(f"{tensors.source}: 'pretrained.model.pos_embed' has {positions} patches, which is no square")
    depth = tensors.count("pretrained.model.blocks.")
    return {
        # a plain ViT whose every size is given below; the two published ones by their own names
        "architecture": {
            (1024, 16, 24): "vit_large_patch16_384",
            (768, 32, 12): "vit_base_patch32_384",
        }.get((width, patch, depth), "vit_base_patch16_224"),
        "image_size": side * patch,
        "patch_size": patch,
        "width": width,
        "depth": depth,
        "channels": [tensors.shape(f"pretrained.act_postprocess{tap}.3.weight")[0] for tap in range(1, 5)],
    }


def resnet_sizes(tensors: Tensors) -> dict[str, Any]:
    """Kind and number of blocks of the residual network, as `ResNetConfig` has them."""
    blocks = [tensors.count(f"pretrained.layer{stage}." + ("4." if stage == 1 else "")) for stage in range(1, 5)]
    bottleneck = tensors.has("pretrained.layer1.4.0.conv3.")
    return {"block": "bottleneck" if bottleneck else "basic", "blocks": blocks}


def text_sizes(tensors: Tensors) -> dict[str, Any]:
    """`text_cfg` of open_clip without heads, and `embed_dim`.

    Raises:
        UserError: a tensor is missing.
    """
    vocabulary, width = tensors.shape(TEXT + "token_embedding.weight")
    return {
        "embed_dim": tensors.shape(TEXT + "text_projection")[1],
        "text_cfg": {
            "context_length": tensors.shape(TEXT + "positional_embedding")[0],
            "vocab_size": vocabulary,
            "width": width,
            "layers": tensors.count(TEXT + "transformer.resblocks."),
        },
    }


def grouped(keys: Iterable[str]) -> dict[str, int]:
    """How many unused tensors there are of each group, for a summary: {"clip_pretrained.visual.*": 152, ...}."""
    counts: dict[str, int] = {}
    for key in keys:
        group = unused_group(key) or TEXT
        name = group + "*" if group.endswith(".") else group
        counts[name] = counts.get(name, 0) + 1
    return counts
