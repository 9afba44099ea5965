"""Text towers of open_clip models: published ones, and those trained by `ovseg-ray train clip`."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
from safetensors import SafetensorError
from torch import Tensor, nn

from ovseg_ray.errors import UserError
from ovseg_ray.vocabulary.open_clip_weights import find_weights
from ovseg_ray.vocabulary.storage import content_hash, write_encoder
from ovseg_ray.vocabulary.text_encoder import TextEncoder, unit_vectors
from ovseg_ray.vocabulary.tokenizer import open_clip_tokenizer

# open_clip builds both towers or none; this one costs nothing and is dropped at once
_NO_VISION = {"layers": 1, "width": 32, "head_width": 32, "patch_size": 16, "image_size": 16}
_NOT_TEXT = ("visual.", "logit_scale", "logit_bias")
_UNFIT = (RuntimeError, KeyError, ValueError, OSError, AttributeError, pickle.UnpicklingError, SafetensorError)


class OpenClipTextEncoder(TextEncoder):
    """The text tower of an open_clip model, frozen.

    Args:
        architecture: `embed_dim`, `text_cfg`, `quick_gelu` and `custom_text` of open_clip's model configuration.
        weights: state dict of the model without its image tower; copied.
    """

    kind = "open_clip"

    def __init__(self, architecture: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        self._architecture = dict(architecture)
        self._tower: Any = _text_only(self._architecture)
        missing, unexpected = self._tower.load_state_dict(dict(weights), strict=False)
        wrong = [name for name in (*missing, *unexpected) if not name.startswith(_NOT_TEXT)]
        if wrong:
            raise ValueError(f"weights do not fit the architecture: {', '.join(wrong[:4])}")
        self._tower.eval().requires_grad_(False)
        text_cfg = self._architecture["text_cfg"]
        self._tokenize = open_clip_tokenizer(text_cfg["context_length"], text_cfg.get("tokenizer_kwargs"))

    @classmethod
    def pretrained(cls, name: str, weights: str) -> OpenClipTextEncoder:
        """A published model.

        Args:
            name: open_clip's name of the architecture, such as "ViT-B-32".
            weights: a pretrained tag of it ("openai"), downloaded on first use, or a local weight file.

        Raises:
            UserError: unknown names, no network, or a file that does not fit.
        """
        config = _configuration(name)
        file, quick_gelu = find_weights(name, weights)
        architecture = {
            "embed_dim": config["embed_dim"],
            "text_cfg": {"context_length": 77, **config["text_cfg"]},
            "quick_gelu": quick_gelu or bool(config.get("quick_gelu", False)),
            "custom_text": bool(config.get("custom_text", False)),
        }
        parts = {key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}
        logit_bias = config.get("init_logit_bias")
        whole = _model_class(architecture)(**parts, quick_gelu=architecture["quick_gelu"], init_logit_bias=logit_bias)
        try:
            open_clip.load_checkpoint(whole, str(file))
        except _UNFIT as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:120]
            raise UserError(f"{file}: holds no weights of {name} ({reason}); name their architecture") from error
        return cls.from_model(whole, architecture)

    @classmethod
    def from_model(cls, model: nn.Module, architecture: Mapping[str, Any]) -> OpenClipTextEncoder:
        """A copy of the text tower that a whole open_clip model has now."""
        state = model.state_dict()
        return cls(architecture, {k: v.float() for k, v in state.items() if not k.startswith(_NOT_TEXT)})

    @property
    def dim(self) -> int:
        return int(self._architecture["embed_dim"])

    @cached_property
    def fingerprint(self) -> str:
        return content_hash(self._description, self._weights)

    def encode(self, texts: Sequence[str]) -> Tensor:
        return unit_vectors(texts, lambda part: self._tower.encode_text(self._tokenize(part)))

    def save(self, directory: Path) -> None:
        write_encoder(directory, self._description, self._weights)

    @classmethod
    def restore(cls, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> OpenClipTextEncoder:
        """From what `save` wrote."""
        return cls(description["architecture"], tensors)

    @property
    def _description(self) -> dict[str, Any]:
        return {"kind": self.kind, "architecture": self._architecture}

    @property
    def _weights(self) -> dict[str, Tensor]:
        return {k: v for k, v in self._tower.state_dict().items() if not k.startswith(_NOT_TEXT)}


def _configuration(name: str) -> dict[str, Any]:
    config: dict[str, Any] | None = open_clip.get_model_config(name)
    if config is None:
        raise UserError(f"open_clip:{name}: no such architecture; `open_clip.list_models()` lists them")
    foreign = {"multimodal_cfg", "hf_model_name", "hf_tokenizer_name"} & {*config, *config["text_cfg"]}
    if foreign or "siglip" in name.lower():
        raise UserError(f"open_clip:{name}: needs a tokenizer from a model hub; choose one with open_clip's own")
    return config


def _model_class(architecture: Mapping[str, Any]) -> Any:
    return open_clip.CustomTextCLIP if architecture["custom_text"] else open_clip.CLIP


def _text_only(architecture: Mapping[str, Any]) -> Any:
    tower = _model_class(architecture)(
        embed_dim=architecture["embed_dim"],
        vision_cfg=dict(_NO_VISION),
        text_cfg=dict(architecture["text_cfg"]),
        quick_gelu=architecture["quick_gelu"],
    )
    tower.visual = nn.Identity()
    return tower
