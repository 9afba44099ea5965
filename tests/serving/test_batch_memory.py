"""Memory of a forward pass, counted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ovseg_ray.methods.base import Encoding
from ovseg_ray.serving import memory


class Method:
    """Holds two tensors of the image's size at a time, and then one of a third of it."""

    pads_to = 32

    def encode(self, images: Tensor) -> Encoding:
        first = images + 1  # 12 bytes a pixel
        second = first * 2  # 24
        del first  # 12
        third = second[:, :1] - 1  # 16
        return Encoding({"a": third}, (images.shape[2], images.shape[3]))


def test_the_peak_is_counted_and_not_the_sum() -> None:
    method: Any = Method()
    assert memory.probe(method, torch.device("cpu"), 64) == memory.Cost(memory.MARGIN * 24, 4)
    assert memory.probe(method, torch.device("cpu"), 33) == memory.Cost(memory.MARGIN * 24, 4), "padded to 64"


def test_there_is_a_budget() -> None:
    assert 2**20 < memory.budget(torch.device("cpu")) < 2**50
