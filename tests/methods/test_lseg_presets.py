"""Shipped presets of the paper: every key that differs from the plain defaults, so that nothing else slips in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ovseg_ray.config import OptimizerConfig, ScheduleConfig, TrainingConfig, build, resolve_preset
from ovseg_ray.methods.lseg import LSeg, LSegConfig
from ovseg_ray.training.config import RunConfig, resolve_config
from ovseg_ray.training.schedule import lr_factor

MODEL: dict[str, Any] = {"templates": ["{}"], "width": 256, "head_lr_scale": 10.0}
TRAINING: dict[str, Any] = {
    "epochs": 240,
    "batch_size": 32,
    "optimizer": OptimizerConfig(name="sgd", lr=0.001, momentum=0.9, weight_decay=1e-4),
    "schedule": ScheduleConfig(name="poly", power=0.9, per_epoch=True),
    "keep_best": 3,
}


def vit(architecture: str) -> dict[str, Any]:
    return {"name": "vit", "weights": "timm:augreg_in21k_ft_in1k", "vit": {"architecture": architecture}}


RESNET = {"name": "resnet", "weights": "torchvision:IMAGENET1K_V1", "batch_norm": "train"}
RECIPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lseg_vitl16": ({"encoder": vit("vit_large_patch16_384")}, {}),
    "lseg_vitb32": ({"encoder": vit("vit_base_patch32_384")}, {}),
    "lseg_rn101_zeroshot": (
        {"encoder": RESNET, "augmentation": {"squash": True, "flip": 0.0}},
        {"epochs": 60, "batch_size": 16, "optimizer": TRAINING["optimizer"].model_copy(update={"lr": 0.05})},
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_presets_are_the_published_recipe(name: str) -> None:
    model, training = RECIPES[name]
    expected = RunConfig(
        method="lseg",
        model=build(LSegConfig, MODEL | model).model_dump(mode="json"),
        training=TrainingConfig(**(TRAINING | training)),
    )
    assert resolve_config("lseg", name, {}) == expected


@pytest.mark.parametrize("name", RECIPES)
def test_presets_name_networks_that_can_be_built(name: str) -> None:
    config = build(LSegConfig, resolve_config("lseg", name, {}).model)
    with torch.device("meta"):
        method = LSeg(config)
    groups = method.parameter_groups()
    assert [(group.backbone, group.lr_scale) for group in groups] == [(True, 1.0), (False, 10.0)]
    names = {id(p): n for n, p in method.named_parameters()}
    assert {names[id(p)].split(".")[0] for p in groups[0].parameters} == {"encoder"}  # reassemble included
    assert f"--config {name} " in resolve_preset(name).read_text()


def test_directories_of_the_same_name_hide_no_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = resolve_config("lseg", "lseg_vitl16", {})
    monkeypatch.chdir(tmp_path)
    for name in ("lseg", "lseg_vitl16"):
        (tmp_path / name).mkdir()  # such as runs
    assert resolve_config("lseg", "lseg_vitl16", {}) == expected


def test_the_rate_falls_once_an_epoch() -> None:
    schedule = resolve_config("lseg", "lseg_vitl16", {}).training.schedule
    factors = [lr_factor(schedule, step, 240 * 7, 7) for step in range(240 * 7)]
    for epoch in range(240):
        assert factors[7 * epoch : 7 * epoch + 7] == pytest.approx([(1 - epoch / 240) ** 0.9] * 7)
