"""How a text encoder lies on disk: `text.json` says what it is, `text.safetensors` holds its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ovseg_ray.errors import UserError
from ovseg_ray.run_directory import write_atomically

DESCRIPTION_FILE = "text.json"
TENSOR_FILE = "text.safetensors"


def content_hash(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Hash of a description and of every tensor's name, type, shape and bytes; 16 hex digits."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def write_encoder(directory: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write both files; `text.json` last, so that a directory that has it is whole.

    Raises:
        UserError: the directory cannot be written.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(directory / TENSOR_FILE, save(contiguous))
    content = {**description, "fingerprint": content_hash(description, contiguous)}
    write_atomically(directory / DESCRIPTION_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_encoder(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read both files and compare the fingerprint.

    Returns:
        The description without its fingerprint, and the tensors on the CPU.

    Raises:
        UserError: a file is missing, damaged, or does not belong to the other.
    """
    path = directory / DESCRIPTION_FILE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        tensors = load_file(directory / TENSOR_FILE)
    except OSError as error:
        missing = error.filename or directory / TENSOR_FILE
        raise UserError(f"{missing}: cannot be read; give the directory of an exported model") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not valid JSON; export the model again") from error
    except SafetensorError as error:
        raise UserError(f"{directory / TENSOR_FILE}: is damaged ({error}); export the model again") from error
    if not isinstance(description, dict) or "fingerprint" not in description:
        raise UserError(f"{path}: does not describe a text encoder; export the model again")
    fingerprint = description.pop("fingerprint")
    if content_hash(description, tensors) != fingerprint:
        raise UserError(
            f"{directory / TENSOR_FILE}: is not the file that {path.name} describes; export the model again"
        )
    return description, tensors
