"""What replicas get of this machine."""

from __future__ import annotations

import os

import torch

from ovseg_ray.serving.config import ScalingConfig


def local_scaling(least: int, most: int) -> ScalingConfig:
    """Shares of this machine's processors, or of its GPUs, for up to `most` replicas."""
    gpus = torch.cuda.device_count()
    return ScalingConfig(
        min_replicas=min(least, most),
        max_replicas=most,
        num_cpus=max((os.cpu_count() or 1) // most, 1),
        num_gpus=min(gpus / most, 1.0),
    )
