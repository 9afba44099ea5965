"""The original's decoder weights under this package's names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = np.load(Path(__file__).parents[1] / "golden/lseg/lseg_tiny_b16.npz")
BLOCKS = {"refinenet4": "fusion32", "refinenet3": "fusion16", "refinenet2": "fusion8", "refinenet1": "fusion4"}


def golden(name: str) -> Tensor:
    """A recorded array."""
    return torch.from_numpy(GOLDEN[name])


def decoder_weights() -> dict[str, Tensor]:
    """State of `FusionDecoder((8, 16, 24, 32), 16)`: every original key but the weights that are never executed."""
    state = {}
    for key in GOLDEN.files:
        name = key.removeprefix("w.scratch.")
        if name == key or name.startswith(("head1", "refinenet4.resConfUnit1")):
            continue
        for old, new in BLOCKS.items():
            name = name.replace(old, new)
        name = name.replace("resConfUnit1", "skip_unit").replace("resConfUnit2", "unit")
        for index in range(4):
            name = name.replace(f"layer{index + 1}_rn", f"reduce.{index}")
        state[name] = golden(key)
    return state
