"""Reading of the stored numbers of STEGO."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden/stego"


class Golden:
    """Arrays of one file; floats and integers as tensors."""

    def __init__(self, name: str) -> None:
        self._arrays = np.load(GOLDEN / f"{name}.npz")
        self.names = self._arrays.files

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(np.array(self._arrays[key]))


def close(found: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    """Equal as far as float32 on two machines can be."""
    torch.testing.assert_close(found.detach(), expected, atol=atol, rtol=1e-5, check_dtype=False)
