"""Residual networks as image encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import ResNet, resnet101
from torchvision.models.resnet import Bottleneck

from ovseg_ray.errors import UserError
from ovseg_ray.networks import ResNetConfig, published
from ovseg_ray.networks.resnet import ResNetEncoder

SMALL = ResNetConfig(blocks=(1, 2, 1, 1))


@pytest.fixture(scope="module")
def classifier() -> ResNet:
    torch.manual_seed(0)
    net = ResNet(Bottleneck, [1, 2, 1, 1])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


@torch.no_grad()
@pytest.mark.parametrize("mode", ["train", "freeze", "fold"])
def test_maps_are_the_stages_of_torchvision(classifier: ResNet, mode: str, tmp_path: Path) -> None:
    save_file(classifier.state_dict(), tmp_path / "resnet.safetensors")
    encoder = ResNetEncoder(SMALL, mode)  # type: ignore[arg-type]
    encoder.load_pretrained(tmp_path / "resnet.safetensors")
    images = torch.randn(2, 3, 64, 64)
    x = classifier.maxpool(classifier.relu(classifier.bn1(classifier.conv1(images))))
    for index, feature_map in enumerate(encoder.eval()(images)):
        x = getattr(classifier, f"layer{index + 1}")(x)
        torch.testing.assert_close(feature_map, x, atol=1e-4, rtol=1e-4)
    training = encoder.train()(images)
    assert torch.allclose(training[0], encoder.eval()(images)[0], atol=1e-4) == (mode != "train")


def test_the_default_is_resnet_101() -> None:
    with torch.device("meta"):
        own = ResNetEncoder(ResNetConfig()).resnet.state_dict()
        expected = {k: v for k, v in resnet101().state_dict().items() if not k.startswith("fc.")}
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in expected.items()}


def test_tags(classifier: ResNet, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="are of ResNet-101"):
        ResNetEncoder(SMALL).load_pretrained("torchvision:IMAGENET1K_V1")
    with torch.device("meta"):
        encoder = ResNetEncoder(ResNetConfig())
    with pytest.raises(UserError, match="no such weights; tags: IMAGENET1K_V1, IMAGENET1K_V2"):
        encoder.load_pretrained("torchvision:V1")

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(published.torch.hub, "load_state_dict_from_url", unreachable)
    with pytest.raises(UserError, match="cannot be downloaded"):
        encoder.load_pretrained("torchvision:IMAGENET1K_V1")
