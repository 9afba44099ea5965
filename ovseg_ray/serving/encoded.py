"""A picture as a model knows it before any label is named: one encoding, or one for each window of a large picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ovseg_ray.methods.base import Encoding
from ovseg_ray.methods.tiling import TileGrid, Window

WHOLE: Window = (0, 0)


@dataclass(frozen=True)
class Encoded:
    """
    Attributes:
        size: (H, W) of the picture.
        grid: windows of a large picture; None for one that went through the network whole.
        windows: their encodings, each of one image; `WHOLE` alone without a grid.
    """

    size: tuple[int, int]
    grid: TileGrid | None
    windows: Mapping[Window, Encoding]

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for encoding in self.windows.values() for tensor in encoding.tensors.values())

    def to(self, device: torch.device) -> Encoded:
        """On a device."""
        return Encoded(self.size, self.grid, {key: value.to(device) for key, value in self.windows.items()})

    def to_arrays(self) -> dict[str, Any]:
        """As NumPy arrays, which other processes of a node read without copying."""
        windows = {
            key: (value.size, {name: tensor.cpu().numpy() for name, tensor in value.tensors.items()})
            for key, value in self.windows.items()
        }
        return {"size": self.size, "grid": self.grid, "windows": windows}

    @classmethod
    def from_arrays(cls, value: Mapping[str, Any]) -> Encoded:
        """What `to_arrays` gave; the arrays are read, never written."""
        windows = {
            key: Encoding({name: _shared(array) for name, array in arrays.items()}, size)
            for key, (size, arrays) in value["windows"].items()
        }
        return cls(value["size"], value["grid"], windows)


def _shared(array: Any) -> torch.Tensor:
    import warnings

    with warnings.catch_warnings():
        # arrays of the object store are read-only, and so is all that is done with an encoding
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
