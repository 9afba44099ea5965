"""Vision transformers of timm: the original's numbers, other architectures, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from original_network import GOLDEN, VIT, original_state, recorded
from safetensors.torch import save_file

from ovseg_ray.config import build
from ovseg_ray.errors import UserError
from ovseg_ray.networks import ImageEncoderConfig, ViTConfig, build_image_encoder, image_normalisation, published
from ovseg_ray.networks.reassemble import resize_positions
from ovseg_ray.networks.vit import ViTEncoder

TINY = {"architecture": "vit_base_patch16_224", "image_size": 64, "width": 32, "depth": 4, "heads": 2}


def encoder_of(values: dict[str, Any]) -> ViTEncoder:
    torch.manual_seed(0)
    return ViTEncoder(build(ViTConfig, values)).eval()


@pytest.fixture
def original() -> ViTEncoder:
    encoder = encoder_of(VIT)
    state = {}
    for key, value in original_state().items():
        if key.startswith("pretrained.model.") and ".model.norm." not in key:
            state["vit." + key.removeprefix("pretrained.model.")] = value
        elif key.startswith("pretrained.act_postprocess"):
            tap, rest = key.removeprefix("pretrained.act_postprocess").split(".", 1)
            for old, new in {"0.project.0": "readout", "3": "project", "4": "resample"}.items():
                if rest.startswith(old + "."):
                    state[f"reassemble.{int(tap) - 1}.{new}{rest.removeprefix(old)}"] = value
    encoder.load_state_dict(state)  # strict
    return encoder


@torch.no_grad()
def test_every_stage_matches_the_original(original: ViTEncoder) -> None:
    image = recorded("image")
    positions = resize_positions(original.vit.pos_embed, 1, (4, 4), (4, 6))
    np.testing.assert_allclose(positions, GOLDEN["pos_embed_resized"], atol=1e-5)
    for index, tokens in enumerate(original.tokens(image)):
        np.testing.assert_allclose(tokens, GOLDEN[f"tokens_{index + 1}"], atol=1e-5)
    for index, feature_map in enumerate(original(image)):
        np.testing.assert_allclose(feature_map, GOLDEN[f"layer_{index + 1}"], atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "taps", "channels", "kernels"),
    [
        ("vit_large_patch16_384", (5, 11, 17, 23), (256, 512, 1024, 1024), [4, 2, None, 3]),
        ("vit_base_patch32_384", (2, 5, 8, 11), (96, 192, 384, 768), [8, 4, 2, None]),
    ],
)
def test_published_networks(architecture: str, taps: Any, channels: Any, kernels: list[int | None]) -> None:
    with torch.device("meta"):
        encoder = ViTEncoder(ViTConfig(architecture=architecture))
    assert encoder.maps.taps == taps
    assert encoder.channels == channels
    sizes = [getattr(part.resample, "kernel_size", (None,))[0] for part in encoder.reassemble]  # type: ignore[union-attr]
    assert sizes == kernels
    images = torch.zeros(1, 3, 480, 480, device="meta")
    shapes = [tuple(feature_map.shape) for feature_map in encoder(images)]
    assert shapes == [(1, c, 480 // s, 480 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)]
    blocks = [block for _, block in encoder.vit.blocks.named_children()]
    assert (blocks[0].norm1.eps, blocks[0].attn.qkv.bias is not None) == (1e-6, True)
    assert isinstance(blocks[0].mlp.act, torch.nn.GELU)
    assert blocks[0].mlp.act.approximate == "none"


@pytest.mark.parametrize(
    "values",
    [
        {"name": "vit", "vit": TINY},
        {"name": "vit", "vit": TINY | {"patch_size": 32, "image_size": 128, "readout": "add"}},
        {"name": "vit", "vit": TINY | {"patch_size": 14, "image_size": 56, "readout": "ignore"}},
        {"name": "vit", "vit": TINY | {"architecture": "vit_base_patch14_reg4_dinov2", "image_size": 56}},
        {"name": "vit", "vit": TINY | {"taps": [0, 1, 2, 3], "depth": 6}},
        {"name": "clip_vit", "vit": {"image_size": 64, "width": 32, "depth": 4, "heads": 2}},
        {
            "name": "clip_vit",
            "vit": {"architecture": "ViT-L-14", "image_size": 56, "width": 32, "depth": 4, "heads": 2},
        },
        {"name": "resnet", "resnet": {"blocks": [1, 1, 1, 1]}},
        {"name": "resnet", "resnet": {"blocks": [1, 1, 1, 1], "block": "basic"}, "batch_norm": "fold"},
    ],
)
def test_maps_have_the_promised_shapes_and_every_parameter_is_used(values: dict[str, Any]) -> None:
    torch.manual_seed(0)
    encoder = build_image_encoder(build(ImageEncoderConfig, values))
    maps = encoder(torch.randn(2, 3, 64, 96))
    assert [m.shape for m in maps] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(encoder.channels, (4, 8, 16, 32), strict=True)
    ]
    sum(m.square().mean() for m in maps).backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []
    assert image_normalisation(build(ImageEncoderConfig, values)) == (encoder.mean, encoder.std)


@torch.no_grad()
@pytest.mark.parametrize(
    "architecture", ["vit_base_patch14_reg4_dinov2", "vit_base_patch14_dinov2", "deit3_base_patch16_224"]
)
def test_tokens_are_timms(architecture: str) -> None:
    torch.manual_seed(0)
    side = 4 * (14 if "14" in architecture else 16)
    encoder = encoder_of(TINY | {"architecture": architecture, "image_size": side})
    images = torch.randn(1, 3, side, side)
    expected = encoder.vit.forward_intermediates(
        images, indices=[0, 1, 2, 3], return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
    )
    for tokens, (patches, prefix) in zip(encoder.tokens(images), expected, strict=True):
        torch.testing.assert_close(tokens, torch.cat([prefix[:, :1], patches], dim=1))


def test_normalisation_follows_the_architecture_and_its_weights() -> None:
    def of(architecture: str | None, weights: str | None = None) -> Any:
        vit = ViTConfig(architecture=architecture)
        return image_normalisation(ImageEncoderConfig(name="vit", vit=vit, weights=weights))

    assert of(None) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert of("vit_base_patch32_384") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert of("vit_base_patch16_224", "timm:augreg_in21k_ft_in1k")[0] == (0.5, 0.5, 0.5)
    assert of("vit_base_patch16_224", "timm:dino")[0] == (0.485, 0.456, 0.406)
    assert of("vit_base_patch16_224", "timm:no such tag") == of("vit_base_patch16_224")
    assert of("vit_base_patch14_dinov2") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


# ---- weights
def test_weights_of_a_classifier_are_taken(tmp_path: Path) -> None:
    torch.manual_seed(1)
    vit = timm.create_model("vit_base_patch16_224", img_size=64, embed_dim=32, depth=4, num_heads=2, num_classes=5)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    encoder = encoder_of(TINY | {"taps": [0, 1, 2, 2 + 1]})
    encoder.load_pretrained(tmp_path / "vit.safetensors")
    for key, value in encoder.vit.state_dict().items():
        assert torch.equal(value, vit.state_dict()[key]), key
    shallow = encoder_of(TINY | {"depth": 5, "taps": [0, 1, 2, 3]})  # a block fewer is wanted than built
    shallow.load_pretrained(tmp_path / "vit.safetensors")
    with pytest.raises(UserError, match=r"'pos_embed' is \(1, 17, 32\), not \(1, 37, 32\)"):
        encoder_of(TINY | {"image_size": 96}).load_pretrained(tmp_path / "vit.safetensors")


def test_a_tag_is_fetched_only_when_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    vit = timm.create_model("vit_base_patch16_224", img_size=64, embed_dim=32, depth=4, num_heads=2)
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    asked = []

    def cached(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(published.huggingface_hub, "try_to_load_from_cache", cached)
    encoder = encoder_of(TINY)
    assert asked == []
    encoder.load_pretrained("timm:augreg_in21k_ft_in1k")
    assert asked == [("timm/vit_base_patch16_224.augreg_in21k_ft_in1k", "model.safetensors")]
    assert torch.equal(encoder.vit.cls_token, vit.cls_token)
    with pytest.raises(UserError, match=r"timm:augreg: no such weights of vit_base_patch16_224; tags: .*augreg_in21k"):
        encoder.load_pretrained("timm:augreg")


def test_no_network_says_what_else_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published.huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(published, "hub_has_address", lambda: False)
    with pytest.raises(UserError, match="without network give the path of a safetensors file"):
        encoder_of(TINY).load_pretrained("timm:augreg_in21k_ft_in1k")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture": "vit_lrge_patch16_384"}, "timm has no such model"),
        ({"architecture": "vit_base_patch16_224.augreg_in1k"}, "timm has no such model; did you mean"),
        ({"architecture": "resnet18"}, "is no plain vision transformer"),
        ({"architecture": "vit_base_patch8_224", "width": 32, "heads": 2}, "has patches of 8 pixels"),
        (TINY | {"taps": [0, 1, 2, 4]}, "has blocks 0 to 3"),
    ],
)
def test_unfit_architectures_are_explained(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught, torch.device("meta"):
        ViTEncoder(build(ViTConfig, values))
    assert "\n" not in str(caught.value)
