"""A whole small network of the original, as it was recorded, and the configuration that names it here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = np.load(Path(__file__).parents[1] / "golden/lseg/lseg_tiny_b16.npz")
VIT: dict[str, Any] = {
    "architecture": "vit_base_patch16_224",
    "image_size": 64,
    "width": 32,
    "depth": 4,
    "heads": 4,
    "channels": [8, 16, 24, 32],
}


def recorded(name: str) -> Tensor:
    """One of its arrays."""
    return torch.from_numpy(GOLDEN[name])


def original_state(prefix: str = "") -> dict[str, Tensor]:
    """Its state dict, keys prefixed as in a Lightning file where asked for."""
    return {prefix + key[2:]: torch.from_numpy(GOLDEN[key]) for key in GOLDEN.files if key.startswith("w.")}
