"""Published weights of timm and torchvision: fetched only where a configuration names a tag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from torch import Tensor

from ovseg_ray.errors import UserError
from ovseg_ray.vocabulary.open_clip_weights import hub_has_address

FILE = "model.safetensors"


def timm_file(architecture: str, tag: str) -> Path:
    """The weight file of a timm model, from the hub's cache or downloaded into it.

    Args:
        architecture: timm's name without a tag.
        tag: of its weights, such as "augreg_in21k_ft_in1k".

    Raises:
        UserError: no such tag, or it cannot be downloaded.
    """
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    repository = timm.get_pretrained_cfg(f"{architecture}.{tag}").hf_hub_id if tag in tags else None
    if not repository:
        known = f"tags: {', '.join(tags)}" if tags else "timm publishes none for it"
        raise UserError(f"model.encoder.weights = timm:{tag}: no such weights of {architecture}; {known}")
    if repository.endswith("/"):
        repository += f"{architecture}.{tag}"
    cached = huggingface_hub.try_to_load_from_cache(repository, FILE)
    if isinstance(cached, str):
        return Path(cached)
    try:
        if hub_has_address():
            return Path(huggingface_hub.hf_hub_download(repository, FILE))
    except (OSError, RuntimeError, ValueError):
        pass
    raise UserError(
        f"model.encoder.weights = timm:{tag}: cannot be downloaded; without network give the path of a safetensors file"
    )


def torchvision_state(weights: Any, tag: str) -> dict[str, Tensor]:
    """The state dict of a torchvision model's published weights, cached by torch.hub.

    Args:
        weights: the enumeration of the model's weights.
        tag: a member of it, such as "IMAGENET1K_V1".

    Raises:
        UserError: no such tag, or it cannot be downloaded.
    """
    if tag not in weights.__members__:
        known = ", ".join(name for name in weights.__members__ if name != "DEFAULT")
        raise UserError(f"model.encoder.weights = torchvision:{tag}: no such weights; tags: {known}")
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            weights[tag].url, progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"model.encoder.weights = torchvision:{tag}: cannot be downloaded; "
            "without network give the path of a safetensors file"
        ) from error
    return state
