"""Number types of networks."""

from __future__ import annotations

import torch

from ovseg_ray.config import Precision, TrainingPrecision
from ovseg_ray.methods.base import Method

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def training_dtype(precision: TrainingPrecision, device: torch.device) -> torch.dtype:
    """The number type of a training's autocast on a device; float32: none."""
    if precision == "auto":
        return torch.bfloat16 if has_bf16(device) else torch.float32
    return DTYPES[precision]


def has_bf16(device: torch.device) -> bool:
    """Whether a device is built for bf16. One that is not computes it all the same, a CPU thirty times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False


def encode_in(method: Method, precision: Precision) -> None:
    """Run a model's `encode` by autocast from now on, whoever calls it; weights and scores stay float32."""
    if precision == "fp32":
        return
    autocast = torch.autocast(next(method.parameters()).device.type, DTYPES[precision])
    method.encode = autocast(method.encode)  # type: ignore[method-assign]  # there are a dozen callers, and one model
