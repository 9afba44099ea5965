"""Checkpoints with the keys, prefixes and foreign classes of the published ones."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ray.cli import main
from ovseg_ray.errors import UserError
from ovseg_ray.methods.export import load_model
from ovseg_ray.methods.stego import Stego
from ovseg_ray.methods.stego.original import convert, convert_state

WIDTH, CODE, CLASSES, EXTRA = 384, 10, 5, 2
PUBLISHED_ENTRIES = 162


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Every key of the published files, at ViT-S/16 with a small table of positions' true size."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.02

    e, d = WIDTH, CODE
    found = {"net.model.cls_token": noise(1, 1, e), "net.model.pos_embed": noise(1, 197, e)}
    found |= {"net.model.patch_embed.proj.weight": noise(e, 3, 16, 16), "net.model.patch_embed.proj.bias": noise(e)}
    for block in range(12):
        prefix = f"net.model.blocks.{block}."
        for norm in ("norm1", "norm2"):
            found |= {f"{prefix}{norm}.weight": 1 + noise(e), f"{prefix}{norm}.bias": noise(e)}
        for name, rows, columns in (
            ("attn.qkv", 3 * e, e), ("attn.proj", e, e), ("mlp.fc1", 4 * e, e), ("mlp.fc2", e, 4 * e),
        ):  # fmt: skip
            found |= {f"{prefix}{name}.weight": noise(rows, columns), f"{prefix}{name}.bias": noise(rows)}
    found |= {"net.model.norm.weight": 1 + noise(e), "net.model.norm.bias": noise(e)}
    for name, rows in (("cluster1.0", d), ("cluster2.0", e), ("cluster2.2", d)):
        found |= {f"net.{name}.weight": noise(rows, e, 1, 1), f"net.{name}.bias": noise(rows)}
    found["train_cluster_probe.clusters"] = noise(CLASSES, d)
    found["cluster_probe.clusters"] = noise(CLASSES + EXTRA, d)
    for name, rows, columns in (("linear_probe", CLASSES, d), ("decoder", e, d)):
        found |= {f"{name}.weight": noise(rows, columns, 1, 1), f"{name}.bias": noise(rows)}
    return found


@pytest.fixture(scope="module")
def file(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "stego.ckpt"
    settings = {"n_classes": CLASSES, "cfg": argparse.Namespace(dim=CODE)}  # a class that weights_only refuses
    content = {"epoch": 3, "global_step": 5000, "pytorch-lightning_version": "1.5.10", "hyper_parameters": settings}
    torch.save({**content, "state_dict": state}, path)
    return path


def test_every_published_tensor_is_taken_or_named(
    state: dict[str, Tensor], file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(state) == PUBLISHED_ENTRIES
    words = ["convert", "stego", str(file), str(tmp_path / "run")]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["encoder"], said["width"], said["clusters"]) == ("vit_small_patch16", CODE, CLASSES + EXTRA)
    assert (said["entries"], said["dropped"]) == (PUBLISHED_ENTRIES, {"train_cluster_probe.*": 1, "decoder.*": 2})
    assert main(words) == 2
    assert "choose a new or empty directory" in capsys.readouterr().err

    model = load_model(tmp_path / "run" / "model")
    assert isinstance(model, Stego)
    assert model.config.squares.resampling == "nearest"
    rng = np.random.default_rng(0)
    images = model.preprocess(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8))[None]
    with torch.no_grad():
        features = model.backbone(images)

        def conv(name: str, x: Tensor) -> Tensor:
            return F.conv2d(x, state[f"net.{name}.weight"], state[f"net.{name}.bias"])

        code = conv("cluster1.0", features) + conv("cluster2.2", F.relu(conv("cluster2.0", features)))
        torch.testing.assert_close(model.head(features), code, atol=1e-5, rtol=1e-4)
        cosines = F.conv2d(
            F.normalize(code, dim=1), F.normalize(state["cluster_probe.clusters"], dim=1)[..., None, None]
        )
        torch.testing.assert_close(model.cluster_probe.cosines(code), cosines, atol=1e-5, rtol=1e-4)
        # the backbone took its weights: its first layer is the file's
        patches = F.conv2d(
            images, state["net.model.patch_embed.proj.weight"], state["net.model.patch_embed.proj.bias"], stride=16
        )
        own = model.backbone.vit.model.patch_embed.proj(images)  # type: ignore[union-attr, operator]
        torch.testing.assert_close(own, patches)


def test_what_is_no_stego_is_told(state: dict[str, Tensor], tmp_path: Path) -> None:
    inner = {key.removeprefix("net."): value for key, value in state.items()}
    linear = {key: value for key, value in inner.items() if not key.startswith("cluster2.")}
    assert convert_state(linear, "x").method.config.projection == "linear"
    for broken, message in (
        ({k: v for k, v in inner.items() if k != "model.norm.bias"}, "'model.norm.bias' is missing"),
        ({**inner, "model.norm.bias": torch.zeros(3)}, r"'model.norm.bias' is of shape \(3,\)"),
        ({**inner, "aspp.weight": torch.zeros(3)}, "'aspp.weight' is no part of STEGO"),
        ({"a": torch.zeros(1)}, "holds no 'model.patch_embed.proj.weight'"),
        ({**inner, "model.patch_embed.proj.weight": torch.zeros(192, 3, 16, 16)}, "a backbone of width 192"),
    ):
        with pytest.raises(UserError, match=message):
            convert_state(broken, "x")
    (tmp_path / "text.ckpt").write_text("no weights")
    with pytest.raises(UserError, match=r"text\.ckpt"):
        convert(tmp_path / "text.ckpt", tmp_path / "out")
