"""CLIP's image towers as image encoders."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from ovseg_ray.config import build
from ovseg_ray.errors import UserError
from ovseg_ray.networks import ViTConfig, clip_vit
from ovseg_ray.networks.clip_vit import ClipViTEncoder

SIZES = {"image_size": 64, "width": 64, "depth": 4, "heads": 1}
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 4, "width": 64, "head_width": 64, "patch_size": 16, "image_size": 64},
    "text_cfg": {"context_length": 12, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1},
}


def whole(*, quick_gelu: bool = False) -> open_clip.CLIP:
    torch.manual_seed(1)
    return open_clip.CLIP(**CLIP, quick_gelu=quick_gelu).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("prefix", ["", "towers."])
@pytest.mark.parametrize("architecture", ["ViT-B-16", "ViT-B-16-quickgelu"])
@torch.no_grad()
def test_tokens_are_open_clips(architecture: str, prefix: str, tmp_path: Path) -> None:
    model = whole(quick_gelu=architecture.endswith("quickgelu"))
    state = {prefix + key: value.clone() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "clip.safetensors")
    encoder = ClipViTEncoder(build(ViTConfig, SIZES | {"architecture": architecture})).eval()
    encoder.load_pretrained(tmp_path / "clip.safetensors")
    images = torch.randn(2, 3, 64, 64)
    expected = model.visual.forward_intermediates(images, output_fmt="NLC", output_extra_tokens=True)
    for index, tokens in enumerate(encoder.tokens(images)):
        parts = [expected["image_intermediates_prefix"][index], expected["image_intermediates"][index]]
        torch.testing.assert_close(tokens, torch.cat(parts, dim=1))


def test_published_weights_bring_their_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_vit, "find_weights", lambda *_: (Path("unused"), True))
    encoder = ClipViTEncoder(build(ViTConfig, SIZES))
    with pytest.raises(UserError, match=r"set model.encoder.vit.architecture to ViT-B-16-quickgelu"):
        encoder.load_pretrained("open_clip:openai")


@pytest.mark.parametrize(
    ("architecture", "message"), [("ViT-Z-16", "open_clip has none"), ("RN50", "no plain vision transformer")]
)
def test_unfit_architectures_are_explained(architecture: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ClipViTEncoder(build(ViTConfig, {"architecture": architecture}))
