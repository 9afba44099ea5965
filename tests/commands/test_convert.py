"""`ovseg-ray convert`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from original_layout import TINY

from ovseg_ray.cli import main
from ovseg_ray.methods.export import describe_model


def test_options_reach_the_run_and_what_was_dropped_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lseg.ckpt"
    torch.save({"state_dict": TINY.state("net.")}, file)
    words = ["convert", "lseg", str(file), str(tmp_path / "run"), "--heads", "4", "--text-heads", "2"]
    assert main([*words, "--vocabulary", "camvid-11", "--vocabulary", "ade20k-150"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["run"] == str(tmp_path / "run")
    assert (said["encoder"], said["head_block"], said["joint_width"]) == ("vit", "none", 16)
    assert said["dropped"]["pretrained.model.head.*"] == 2
    model = describe_model(tmp_path / "run" / "model")
    assert model.config["encoder"]["vit"]["heads"] == 4
    assert [labels.name for labels in model.label_sets] == ["camvid-11", "ade20k-150"]
    assert main(words) == 2
    assert "choose a new or empty directory for OUT" in capsys.readouterr().err
