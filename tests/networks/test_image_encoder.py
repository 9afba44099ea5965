"""What every image encoder promises, and MobileNetV2's weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import mobilenet_v2

from ovseg_ray.config import build
from ovseg_ray.errors import UserError
from ovseg_ray.networks import ImageEncoderConfig, build_image_encoder
from ovseg_ray.networks.mobilenet_v2 import MobileNetV2Encoder

REAL = Path(os.environ.get("OVSEG_RAY_REAL_DATA", Path(__file__).parents[3] / "shared/data"))
IMAGENET = REAL / "vision_models/mobilenet_v2_imagenet.safetensors"
needs_real_weights = pytest.mark.skipif(not IMAGENET.is_file(), reason=f"no {IMAGENET}")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mobilenet.safetensors"
    network = mobilenet_v2(num_classes=1001)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    save_file(network.state_dict(), path)
    return path


@pytest.mark.parametrize("finest", [2, 4])
@pytest.mark.parametrize("name", ["small", "mobilenet_v2"])
def test_maps_have_the_promised_widths_and_strides(name: str, finest: int) -> None:
    encoder = build_image_encoder(build(ImageEncoderConfig, {"name": name, "finest_stride": finest}))
    maps = encoder(torch.randn(2, 3, 64, 96))
    assert [m.shape for m in maps] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(encoder.channels, encoder.strides, strict=True)
    ]
    assert encoder.strides == ((2, 4, 8, 16, 32) if finest == 2 else (4, 8, 16, 32))
    sum(m.square().mean() for m in maps).backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


def test_blocks_and_channels_of_the_small_encoder() -> None:
    config = build(ImageEncoderConfig, {"channels": [8, 8, 16, 16], "blocks": [2, 1, 1, 3]})
    encoder = build_image_encoder(config)
    assert [len(stage) for stage in encoder.stages] == [2, 1, 1, 3]  # type: ignore[union-attr]
    assert encoder.channels == (8, 8, 16, 16)


def test_folding_changes_nothing_but_the_norms(weights: Path) -> None:
    images = torch.randn(1, 3, 64, 64)
    maps = []
    for mode in ("freeze", "fold"):
        encoder = MobileNetV2Encoder(mode)  # type: ignore[arg-type]
        encoder.load_pretrained(weights)
        maps.append(encoder.eval()(images))
        assert any(isinstance(m, nn.BatchNorm2d) for m in encoder.modules()) == (mode == "freeze")
    for frozen, folded in zip(*maps, strict=True):
        torch.testing.assert_close(frozen, folded, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("mode", "same"), [("freeze", True), ("fold", True), ("train", False)])
def test_frozen_norms_do_not_see_the_batch(weights: Path, mode: str, same: bool) -> None:
    encoder = MobileNetV2Encoder(mode)  # type: ignore[arg-type]
    encoder.load_pretrained(weights)
    images = torch.randn(2, 3, 64, 64) + 1
    training, evaluating = encoder.train()(images), encoder.eval()(images)
    assert torch.equal(training[0], evaluating[0]) == same
    assert all(p.requires_grad for p in encoder.parameters())


@needs_real_weights
@pytest.mark.real_data
def test_real_weights_are_torchvisions() -> None:
    reference = mobilenet_v2(num_classes=1001)
    reference.load_state_dict(load_file(IMAGENET))
    encoder = MobileNetV2Encoder("fold", 2)
    encoder.load_pretrained(IMAGENET)
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        expected = reference.eval().features[:18](images)
        torch.testing.assert_close(encoder.eval()(images)[-1], expected, atol=1e-3, rtol=1e-3)


def test_unfit_weights_are_named(weights: Path, tmp_path: Path) -> None:
    state = load_file(weights)
    cases = {
        "absent.safetensors": (None, "no such weights file"),
        "text.safetensors": (b"no tensors here", "not a whole safetensors file"),
        "half.safetensors": (weights.read_bytes()[:5000], "not a whole safetensors file"),
    }
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            MobileNetV2Encoder().load_pretrained(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    changes = {
        "is missing": {k: v for k, v in state.items() if k != "features.0.0.weight"},
        "is not part of the network": {**state, "extra": torch.zeros(1)},
        r"is \(10, 1280\)": {**state, "classifier.1.weight": torch.zeros(10, 1280)},
    }
    for message, changed in changes.items():
        save_file(changed, tmp_path / "other.safetensors")
        with pytest.raises(UserError, match=message):
            MobileNetV2Encoder().load_pretrained(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "resnext"}, "name"),
        ({"name": "small", "batch_norm": "freeze"}, "no pretrained statistics"),
        ({"channels": [0, 8, 8, 8]}, "1 or more"),
        ({"finest_strid": 2}, "did you mean 'finest_stride'"),
        ({"name": "vit", "finest_stride": 2}, "no map at half resolution"),
        ({"name": "vit", "batch_norm": "freeze"}, "has no batch norm"),
        ({"name": "vit", "vit": {"patch_size": 8}}, "patches of 14, 16 or 32"),
        ({"name": "vit", "vit": {"width": 32, "heads": 5}}, "heads = 5 must divide width = 32"),
        ({"name": "vit", "vit": {"taps": [0, 2, 1, 3]}}, "ascending"),
        ({"name": "vit", "weights": "open_clip:openai"}, "takes timm:TAG or a safetensors file"),
        ({"name": "small", "weights": "timm:tag"}, "takes a safetensors file"),
        ({"name": "resnet", "resnet": {"blocks": [0, 1, 1, 1]}}, "blocks must be 1 or more"),
    ],
)
def test_bad_configurations_are_explained(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(ImageEncoderConfig, values)
