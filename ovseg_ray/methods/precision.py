"""Number types of networks."""

from __future__ import annotations

import torch

from ovseg_ray.config import Precision
from ovseg_ray.methods.base import Method

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def encode_in(method: Method, precision: Precision) -> None:
    """Run a model's `encode` by autocast from now on, whoever calls it; weights and scores stay float32."""
    if precision == "fp32":
        return
    autocast = torch.autocast(next(method.parameters()).device.type, DTYPES[precision])
    method.encode = autocast(method.encode)  # type: ignore[method-assign]  # there are a dozen callers, and one model
