"""What a model costs, on layers whose cost is known."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ovseg_ray.tuning.measure import latency_ms, memory_mb


class Known(nn.Module):
    """A million weights; encoding allocates two maps of a million numbers, one after the other."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1_000_000))
        self.seconds = seconds

    def preprocess(self, image: np.ndarray) -> Tensor:
        time.sleep(self.seconds)
        return torch.zeros(3)

    def encode(self, images: Tensor) -> Any:
        first = torch.zeros(1_000_000)
        del first
        return SimpleNamespace(tensors={"x": torch.zeros(1_000_000)})


def test_memory_is_of_weights_and_of_the_peak() -> None:
    assert 8.0 <= memory_mb(Known(), np.zeros((2, 2, 3), np.uint8)) < 8.1  # type: ignore[arg-type]


def test_latency_is_a_median_in_milliseconds() -> None:
    threads = torch.get_num_threads()
    found = latency_ms(Known(seconds=0.02), np.zeros((2, 2, 3), np.uint8))  # type: ignore[arg-type]
    assert found >= 20.0
    assert torch.get_num_threads() == threads
