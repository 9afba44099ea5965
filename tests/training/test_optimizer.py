from __future__ import annotations

import pytest
import torch
from torch import nn

from ovseg_ray.config import OptimizerConfig
from ovseg_ray.methods.base import ParameterGroup
from ovseg_ray.training.optimizer import build_optimizer, set_lr


def groups() -> list[ParameterGroup]:
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    return [ParameterGroup([a], backbone=True), ParameterGroup([b], lr_scale=10), ParameterGroup([c], decay=False)]


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_groups(name: str, kind: type) -> None:
    config = OptimizerConfig(name=name, lr=0.1, backbone_lr_scale=0.5, weight_decay=0.3, momentum=0.8, beta2=0.95)
    optimizer = build_optimizer(groups(), config)
    assert type(optimizer) is kind
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.05, 1.0, 0.1])
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.3, 0.3, 0.0]
    first = optimizer.param_groups[0]
    assert first["momentum"] == 0.8 if name == "sgd" else first["betas"] == (0.8, 0.95)
    for factor in (0.5, 0.25):  # of the group's own rate, never of the last one
        set_lr(optimizer, factor)
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.05 * factor, factor, 0.1 * factor])


def test_a_frozen_group_gets_no_gradient() -> None:
    given = groups()
    optimizer = build_optimizer(given, OptimizerConfig(backbone_lr_scale=0))
    assert len(optimizer.param_groups) == 2
    assert [g.parameters[0].requires_grad for g in given] == [False, True, True]
