"""Checkpoint files of other programs: tensors by their original key, and what a training wrote of its settings."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from ovseg_ray.errors import UserError

PREFIX = "net."  # of the network within the Lightning module
SETTINGS = "hyper_parameters"  # where Lightning keeps the arguments of the training


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: of the file.
        state: original key, without "net.", to tensor; on the CPU.
        settings: arguments of the training, where the file has them.
    """

    path: Path
    state: dict[str, Tensor]
    settings: dict[str, Any]


class _Inert:
    """Stands for every class that a Lightning file names (callbacks, arguments): holds data, does nothing."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def read_checkpoint(path: Path) -> Checkpoint:
    """A Lightning file, a plain state dict or safetensors. No code of the file is run.

    Raises:
        UserError: no such file, damaged, or no weights in it.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a checkpoint (.ckpt, .pt, .pth or .safetensors)")
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    inner = content.get("state_dict", content)
    state = {key: value for key, value in inner.items() if isinstance(value, Tensor)} if _is_mapping(inner) else {}
    if not state:
        raise UserError(f"{path}: holds no weights (no 'state_dict' of tensors); give a checkpoint")
    settings = content.get(SETTINGS) or {}
    values = dict(settings) if _is_mapping(settings) else dict(vars(settings))
    return Checkpoint(path, {key.removeprefix(PREFIX): value for key, value in state.items()}, values)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); get it again") from error


def _pickled(path: Path) -> dict[str, Any]:
    try:
        # weights_only stops at classes it does not know; Lightning files name many, which need not be here
        foreign = get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        with safe_globals([(_stand_in(name), name) for name in foreign]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # reading rubbish fails in any way at all: IndexError, UnicodeDecodeError, KeyError
        told = isinstance(error, (OSError, RuntimeError))
        reason = " ".join(str(error).split())[:120] if told else "damaged, or not written by torch.save"
        if isinstance(error, pickle.UnpicklingError):
            reason = "it holds something other than tensors"  # torch's text advises to load it unsafely
        raise UserError(f"{path}: is not a checkpoint that can be read as weights ({reason}); get it again") from error
    return content if isinstance(content, dict) else {}


def _stand_in(name: str) -> Any:
    # the unpickler fills no other kind of mapping
    return OrderedDict if name.endswith("Dict") else _Inert
