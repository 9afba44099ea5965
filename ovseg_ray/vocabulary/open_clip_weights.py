"""Where the weights of a published open_clip model are: a local file, the hub's cache, or a download."""

from __future__ import annotations

import logging
import socket
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
import open_clip
from huggingface_hub.constants import ENDPOINT

from ovseg_ray.errors import UserError

_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def find_weights(name: str, weights: str) -> tuple[Path, bool]:
    """The weight file of an architecture, downloaded where necessary.

    Args:
        name: open_clip's name of the architecture.
        weights: a local file or a pretrained tag.

    Returns:
        The file, and whether those weights were trained with QuickGELU, which the architecture's name may not say.

    Raises:
        UserError: neither file nor tag, or a tag that cannot be downloaded.
    """
    if Path(weights).is_file():
        return Path(weights), False
    tag = open_clip.get_pretrained_cfg(name, weights)
    if not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise UserError(f"open_clip:{name}:{weights}: no such file or pretrained tag; tags of {name}: {tags}")
    file = _cached(tag) or _downloaded(tag)
    if file is None:
        raise UserError(
            f"open_clip:{name}:{weights}: cannot be downloaded; without network give a local file: "
            f"open_clip:{name}:/path/to/weights.safetensors"
        )
    return file, bool(tag.get("quick_gelu", False))


def _cached(tag: dict[str, Any]) -> Path | None:
    repository, _, file = tag.get("hf_hub", "").rpartition("/")
    if not repository:
        return None
    for candidate in (file,) if file else _HUB_FILES:
        path = huggingface_hub.try_to_load_from_cache(repository, candidate)
        if isinstance(path, str):
            return Path(path)
    return None


def _downloaded(tag: dict[str, Any]) -> Path | None:
    if tag.get("hf_hub") and not hub_has_address():
        return None
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # one line per retry otherwise
    try:
        return Path(open_clip.download_pretrained(tag))
    except (OSError, RuntimeError, ValueError):
        return None
    finally:
        logger.setLevel(level)


def hub_has_address() -> bool:
    """Whether the model hub can be reached at all, as far as its name tells."""
    # the hub's client retries a failing name look-up for 46 s; a proxy looks names up itself
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True
