"""What replicas get of this machine."""

from __future__ import annotations

import os

import torch

from ovseg_ray.config import build
from ovseg_ray.serving.config import ScalingConfig


def local_scaling(least: int, most: int) -> ScalingConfig:
    """Shares of this machine's processors, or of its GPUs, for up to `most` replicas.

    Raises:
        UserError: fewer at most than at least.
    """
    gpus = torch.cuda.device_count()
    values = {
        "min_replicas": least,
        "max_replicas": most,
        "num_cpus": max((os.cpu_count() or 1) // most, 1),
        "num_gpus": min(gpus / most, 1.0),
    }
    return build(ScalingConfig, values, "ovseg-ray serve")
