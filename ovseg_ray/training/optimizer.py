"""The optimiser of a method's parameter groups."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ovseg_ray.config import OptimizerConfig
from ovseg_ray.methods.base import ParameterGroup


def build_optimizer(groups: Sequence[ParameterGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimiser; each of its groups keeps its own rate at factor 1 as "base_lr".

    Groups whose rate is 0 are frozen: no gradient is computed for them at all.
    """
    entries = []
    for group in groups:
        lr = config.lr * group.lr_scale * (config.backbone_lr_scale if group.backbone else 1.0)
        if lr == 0:
            for parameter in group.parameters:
                parameter.requires_grad_(False)
            continue
        decay = config.weight_decay if group.decay else 0.0
        entries.append({"params": group.parameters, "lr": lr, "base_lr": lr, "weight_decay": decay})
    if config.name == "sgd":
        return torch.optim.SGD(entries, momentum=config.momentum, fused=True)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(entries, betas=(config.momentum, config.beta2), fused=True)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group at `factor` times its own rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
