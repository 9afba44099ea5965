"""Weights of frozen backbones: what a file may hold, and what is said of one that holds something else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from ovseg_ray.errors import UserError
from ovseg_ray.networks.layouts import read_state


@pytest.mark.parametrize("prefix", ["", "module.backbone."])
@pytest.mark.parametrize("of_a_training", [False, True])
def test_dino_files_lose_their_prefixes(tmp_path: Path, prefix: str, of_a_training: bool) -> None:
    state = {f"{prefix}cls_token": torch.ones(2), f"{prefix}norm.bias": torch.zeros(3)}
    torch.save({"teacher": state, "epoch": 3} if of_a_training else state, tmp_path / "dino.pth")
    assert sorted(read_state(tmp_path / "dino.pth")) == ["cls_token", "norm.bias"]


def test_rubbish_is_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "dino.pth"
    for seed in range(200):
        path.write_bytes(b"\x80\x02" + random.Random(seed).randbytes(1000))
        with pytest.raises(UserError, match=r"dino\.pth: cannot be read as weights \(.+\); give DINO's"):
            read_state(path)
    torch.save(torch.ones(3), path)
    with pytest.raises(UserError, match="holds no weights by name"):
        read_state(path)
