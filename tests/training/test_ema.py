from __future__ import annotations

import torch
from torch import nn

from ovseg_ray.training.ema import Ema


def test_it_follows_the_definition() -> None:
    module = nn.Linear(2, 1)
    ema = Ema(module, decay=0.5)
    expected = module.weight.detach().clone()
    for n in range(1, 12):
        with torch.no_grad():
            module.weight.add_(1.0)
        ema.update()
        decay = min(0.5, (1 + n) / (10 + n))  # 2/11, 3/12, … until 0.5
        expected = decay * expected + (1 - decay) * module.weight.detach()
        torch.testing.assert_close(ema.average["weight"], expected)
    assert ema.updates == 11


def test_frozen_parts_are_left_out_and_statistics_are_in() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 2))
    module[2].requires_grad_(False)
    module.register_buffer("constant", torch.ones(3))
    ema = Ema(module, 0.9)
    assert set(ema.average) == {
        "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var",
    }  # fmt: skip
    assert set(ema.average) <= set(module.state_dict())
    module[1](module[0](torch.randn(4, 1, 3, 3)))
    before = ema.average["1.running_mean"].clone()
    ema.update()
    assert not torch.equal(ema.average["1.running_mean"], before)


def test_it_keeps_its_own_copy() -> None:
    module = nn.Linear(1, 1)
    ema = Ema(module, 0.9)
    before = ema.average["weight"].clone()
    with torch.no_grad():
        module.weight.add_(5)
    assert torch.equal(ema.average["weight"], before)
