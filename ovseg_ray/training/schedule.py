"""Learning rate over steps, as a pure function."""

from __future__ import annotations

import math

from ovseg_ray.config import ScheduleConfig


def lr_factor(config: ScheduleConfig, step: int, total_steps: int, steps_per_epoch: int) -> float:
    """Factor on the learning rate of a step.

    A linear warm-up reaches 1 at its last step; what follows it is a function of t, the share of the remaining
    steps that is done: cosine (Loshchilov & Hutter 2017, eq. 5) or poly, (1 - t)^power, both ending at
    `final_scale`. With `per_epoch`, t stands still within an epoch. The last of `scales` that has begun multiplies it.

    Args:
        config: of the schedule.
        step: 0-based.
        total_steps: of the training.
        steps_per_epoch: of the plan.

    Returns:
        0..1, times the scale.
    """
    begun = [factor for epoch, factor in config.scales if step >= round(epoch * steps_per_epoch)]
    return _shape(config, step, total_steps, steps_per_epoch) * (begun[-1] if begun else 1.0)


def _shape(config: ScheduleConfig, step: int, total_steps: int, steps_per_epoch: int) -> float:
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.per_epoch:
        step = max(step // steps_per_epoch * steps_per_epoch, config.warmup_steps)
    t = (step - config.warmup_steps) / max(total_steps - config.warmup_steps, 1)
    if config.name == "constant":
        return 1.0
    shape = (1 - t) ** config.power if config.name == "poly" else (1 + math.cos(math.pi * t)) / 2
    return config.final_scale + (1 - config.final_scale) * shape
