"""The state of a training on disk: a directory that is there whole or not at all. No pickle is read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ovseg_ray.errors import UserError
from ovseg_ray.run_directory import write_directory_atomically
from ovseg_ray.training.loop import Loop

MODEL_FILE = "model.safetensors"
EMA_FILE = "ema.safetensors"
STATE_FILE = "state.pt"


def checkpoint_name(step: int) -> str:
    """Directory of the checkpoint of a step."""
    return f"step-{step:08d}"


def save_checkpoint(loop: Loop, directory: Path) -> None:
    """Write everything that `load_checkpoint` needs.

    Raises:
        UserError: it cannot be written.
    """
    state: dict[str, Any] = {
        "step": loop.step,
        "seconds": loop.seconds,
        "optimizer": loop.optimizer.state_dict(),
        "scaler": loop.scaler.state_dict(),
        "ema_updates": loop.ema.updates if loop.ema else 0,
    }

    def fill(partial: Path) -> None:
        save_file(_portable(loop.method.state_dict()), partial / MODEL_FILE)
        if loop.ema:
            save_file(_portable(loop.ema.average), partial / EMA_FILE)
        torch.save(state, partial / STATE_FILE)

    try:
        write_directory_atomically(directory, fill)
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{directory}: cannot be written ({error}); make room or choose another --out") from error


def load_checkpoint(loop: Loop, directory: Path) -> None:
    """Put a loop where it was when the checkpoint was written.

    Raises:
        UserError: it is damaged.
    """
    try:
        model = load_file(directory / MODEL_FILE)
        average = load_file(directory / EMA_FILE) if loop.ema else {}
    except (OSError, SafetensorError) as error:
        raise _damaged(directory, error) from error
    try:
        state = torch.load(directory / STATE_FILE, map_location="cpu", weights_only=True)
    except Exception as error:  # reading rubbish fails in any way at all: IndexError, UnicodeDecodeError, KeyError
        raise _damaged(directory, error) from error
    loop.method.load_state_dict(model)
    loop.optimizer.load_state_dict(state["optimizer"])
    loop.scaler.load_state_dict(state["scaler"])
    loop.step, loop.seconds = state["step"], state["seconds"]
    if loop.ema:
        loop.ema.restore(average, state["ema_updates"])


def load_weights(method: nn.Module, directory: Path) -> None:
    """The weights that a checkpoint stands for: the average where there is one.

    Raises:
        UserError: it is damaged.
    """
    try:
        weights = load_file(directory / MODEL_FILE)
        if (directory / EMA_FILE).is_file():
            weights.update(load_file(directory / EMA_FILE))
    except (OSError, SafetensorError) as error:
        raise _damaged(directory, error) from error
    method.load_state_dict(weights)


def newest_checkpoint(directory: Path) -> Path | None:
    """The checkpoint of the highest step; None where there is none. Half-written ones never carry the name."""
    return max(directory.glob("step-*"), default=None, key=lambda path: path.name)


def remove_partial(directory: Path) -> None:
    """Clear what killed writers left in a directory."""
    for path in directory.glob(".*.partial"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _portable(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # safetensors wants contiguous tensors that share no memory
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _damaged(directory: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return UserError(f"{directory}: damaged checkpoint ({reason}); choose another --out and train anew")
