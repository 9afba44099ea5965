"""Readouts against the original's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from ovseg_ray.networks.readout import readout_add, readout_ignore, readout_project

GOLDEN = np.load(Path(__file__).parents[1] / "golden/lseg/readout_ops.npz")
TOKENS = torch.from_numpy(GOLDEN["tokens"])


def test_readouts_match_the_original() -> None:
    projection = nn.Linear(16, 8)
    projection.weight.data = torch.from_numpy(GOLDEN["project.project.0.weight"])
    projection.bias.data = torch.from_numpy(GOLDEN["project.project.0.bias"])
    for name, output in {
        "ignore_out": readout_ignore(TOKENS),
        "add_out": readout_add(TOKENS),
        "project_out": readout_project(TOKENS, projection),
    }.items():
        np.testing.assert_allclose(output.detach(), GOLDEN[name], atol=1e-5, err_msg=name)
