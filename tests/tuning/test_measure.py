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

    def __init__(self, waits: float = 0.0, computes: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1_000_000))
        self.waits, self.computes = waits, computes

    def preprocess(self, image: np.ndarray) -> Tensor:
        time.sleep(self.waits)
        ends = time.thread_time() + self.computes
        while time.thread_time() < ends:
            pass
        return torch.zeros(3)

    def encode(self, images: Tensor) -> Any:
        first = torch.zeros(1_000_000)
        del first
        return SimpleNamespace(tensors={"x": torch.zeros(1_000_000)})


def test_memory_is_of_weights_and_of_the_peak() -> None:
    assert 8.0 <= memory_mb(Known(), np.zeros((2, 2, 3), np.uint8)) < 8.1  # type: ignore[arg-type]


def test_latency_is_the_time_that_one_thread_computes() -> None:
    """What it waits, for others that run beside it, is no part of it."""
    threads = torch.get_num_threads()
    image = np.zeros((2, 2, 3), np.uint8)
    waits = latency_ms(Known(waits=0.02), image)  # type: ignore[arg-type]
    computes = latency_ms(Known(computes=0.02), image)  # type: ignore[arg-type]
    assert 20.0 <= computes < 60.0
    assert waits < 0.5 * computes
    assert torch.get_num_threads() == threads
