"""Weights of transformers, open_clip and the DINO repositories: the same tokens as their own libraries give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from open_clip.transformer import VisionTransformer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ovseg_ray.errors import UserError
from ovseg_ray.networks.frozen import BackboneConfig, FrozenBackbone, build_backbone

IMAGES = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def saved(path: Path, kind: str, **sizes: Any) -> Any:
    """A model of transformers with random weights, biases and norms among them, saved below `path`."""
    torch.manual_seed(0)
    heads = {"num_hidden_layers": 12, "image_size": 224, **sizes}
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**heads)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model.save_pretrained(path)
    return model


def backbone(weights: Path, name: str, architecture: str) -> FrozenBackbone:
    built = build_backbone(BackboneConfig(name=name, architecture=architecture, weights=str(weights)))  # type: ignore[arg-type]
    built.load_pretrained(str(weights))
    return built


def grid(tokens: Tensor, others: int, side: int) -> Tensor:
    return tokens[:, others:].transpose(1, 2).unflatten(2, (side, side))


def vit(path: Path) -> tuple[FrozenBackbone, Tensor]:
    model = saved(path, "ViT", hidden_size=384, num_attention_heads=6, intermediate_size=1536, layer_norm_eps=1e-6)
    return backbone(path, "dino", "vit_small_patch16"), grid(model(IMAGES).last_hidden_state, 1, 14)


def dinov2(path: Path) -> tuple[FrozenBackbone, Tensor]:
    model = saved(path, "Dinov2", hidden_size=384, num_attention_heads=6, patch_size=14, image_size=518)
    return backbone(path, "timm", "vit_small_patch14_dinov2"), grid(model(big()).last_hidden_state, 1, 37)


def dinov2_registers(path: Path) -> tuple[FrozenBackbone, Tensor]:
    model = saved(path, "Dinov2WithRegisters", hidden_size=384, num_attention_heads=6, patch_size=14, image_size=518)
    return backbone(path, "timm", "vit_small_patch14_reg4_dinov2"), grid(model(big()).last_hidden_state, 5, 37)


def clip(path: Path) -> tuple[FrozenBackbone, Tensor]:
    model = saved(path, "CLIPVision", patch_size=32)
    tokens = model.post_layernorm(model(IMAGES).last_hidden_state)
    return backbone(path, "timm", "vit_base_patch32_clip_quickgelu_224"), grid(tokens, 1, 7)


def open_clip_tower(path: Path) -> tuple[FrozenBackbone, Tensor]:
    torch.manual_seed(0)
    tower = VisionTransformer(
        image_size=224, patch_size=16, width=256, layers=10, heads=4, mlp_ratio=4, output_dim=7, output_tokens=True,
        act_layer=nn.GELU, norm_layer=open_clip.transformer.LayerNorm,
    ).eval()  # fmt: skip
    whole = {f"visual.{key}": value.contiguous() for key, value in tower.state_dict().items()}
    file = path.with_suffix(".safetensors")
    save_file({**whole, "transformer.resblocks.0.ln_1.weight": torch.ones(3), "logit_scale": torch.ones(1)}, file)
    return backbone(file, "timm", "vit_xsmall_patch16_clip_224"), grid(tower(IMAGES)[1], 0, 14)


def big() -> Tensor:
    return torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", [vit, dinov2, dinov2_registers, clip, open_clip_tower], ids=lambda f: f.__name__)
@torch.no_grad()
def test_tokens_are_those_of_the_library_that_wrote_the_weights(
    tmp_path: Path, layout: Callable[[Path], tuple[FrozenBackbone, Tensor]]
) -> None:
    ours, expected = layout(tmp_path / "model")
    images = IMAGES if expected.shape[2] < 37 else big()
    torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-4)


def test_dinov2s_own_files_are_taken(tmp_path: Path) -> None:
    saved(tmp_path / "model", "Dinov2", hidden_size=384, num_attention_heads=6, patch_size=14, image_size=518)
    ours = backbone(tmp_path / "model", "timm", "vit_small_patch14_dinov2").vit.state_dict()
    published = {**ours, "mask_token": torch.zeros(1, 384)}
    torch.save(published, tmp_path / "dinov2_vits14_pretrain.pth")
    read = backbone(tmp_path / "dinov2_vits14_pretrain.pth", "timm", "vit_small_patch14_dinov2").vit.state_dict()
    assert all(torch.equal(read[key], ours[key]) for key in ours)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    saved(path, "CLIPVision", patch_size=32)
    with pytest.raises(UserError, match="was trained with QuickGELU; give the --architecture of its name with _quick"):
        backbone(path, "timm", "vit_base_patch32_clip_224")
    with pytest.raises(UserError, match=r"'patch_embed.proj.weight' is \(768, 3, 32, 32\), not \(768, 3, 16, 16\)"):
        backbone(path, "timm", "vit_base_patch16_clip_quickgelu_224")
    with pytest.raises(UserError, match="fetch timm:TAG"):
        backbone(Path("open_clip:openai"), "timm", "vit_base_patch32_clip_224")
    state = load_file(path / "model.safetensors")
    state.pop("encoder.layers.3.self_attn.k_proj.weight")
    save_file(state, path / "model.safetensors")
    with pytest.raises(UserError, match=r"blocks.3.attn"):
        backbone(path, "timm", "vit_base_patch32_clip_quickgelu_224")
    (path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: no such weights file"):
        backbone(path, "timm", "vit_base_patch32_clip_quickgelu_224")
