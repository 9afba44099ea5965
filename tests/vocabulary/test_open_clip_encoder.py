"""Text towers of open_clip models."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from ovseg_ray.errors import UserError
from ovseg_ray.vocabulary import TextEncoder, build_text_encoder, load_text_encoder, open_clip_weights
from ovseg_ray.vocabulary.open_clip_encoder import OpenClipTextEncoder

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    "quick_gelu": True,
}
TEXTS = ["a red car", "sky", "a photo of a cat in the scene"]


@pytest.fixture(scope="module")
def whole() -> open_clip.CLIP:
    torch.manual_seed(0)
    return open_clip.CLIP(**CONFIG).eval()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def encoder(whole: open_clip.CLIP) -> TextEncoder:
    return OpenClipTextEncoder.from_model(
        whole, {**{key: CONFIG[key] for key in ("embed_dim", "text_cfg", "quick_gelu")}, "custom_text": False}
    )


@pytest.fixture
def tiny_architecture(tmp_path: Path) -> str:
    (tmp_path / "tiny-test.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path / "tiny-test.json")
    return "tiny-test"


def test_equal_to_open_clip(whole: open_clip.CLIP, encoder: TextEncoder) -> None:
    with torch.no_grad():
        expected = whole.encode_text(open_clip.SimpleTokenizer(context_length=12)(TEXTS), normalize=True)
    torch.testing.assert_close(encoder.encode(TEXTS), expected, rtol=0, atol=1e-6)


def test_result_may_enter_a_loss(encoder: TextEncoder) -> None:
    text = encoder.encode(TEXTS)
    assert not text.is_inference()
    assert not text.requires_grad
    image = torch.ones(2, 16, requires_grad=True)
    (image @ text.T).sum().backward()
    torch.testing.assert_close(image.grad, text.sum(0).expand(2, 16))


def test_does_not_follow_its_source(whole: open_clip.CLIP, encoder: TextEncoder) -> None:
    before = encoder.encode(TEXTS)
    with torch.no_grad():
        whole.text_projection.mul_(-1)
    try:
        assert torch.equal(encoder.encode(TEXTS), before)
    finally:
        with torch.no_grad():
            whole.text_projection.mul_(-1)


def test_batches_are_bounded(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    together = encoder.encode(TEXTS)
    monkeypatch.setattr("ovseg_ray.vocabulary.text_encoder.MAX_BATCH", 2)
    sizes = []
    tower = encoder._tower  # type: ignore[attr-defined]
    original = tower.encode_text
    monkeypatch.setattr(tower, "encode_text", lambda tokens: sizes.append(len(tokens)) or original(tokens))
    torch.testing.assert_close(encoder.encode(TEXTS), together, rtol=0, atol=1e-6)
    assert sizes == [2, 1]


def test_autocast_of_the_caller_changes_nothing(encoder: TextEncoder) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = encoder.encode(TEXTS)
    assert torch.equal(inside, encoder.encode(TEXTS))


def test_no_texts(encoder: TextEncoder) -> None:
    with pytest.raises(UserError, match="no texts"):
        encoder.encode([])


def test_save_and_load_bit_for_bit(encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    again = load_text_encoder(tmp_path)
    assert again.fingerprint == encoder.fingerprint
    assert (again.dim, encoder.dim) == (16, 16)
    assert torch.equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.json", "text.safetensors"]
    for spec in (f"run:{tmp_path}",):
        assert build_text_encoder(spec).fingerprint == encoder.fingerprint


@pytest.mark.parametrize("damage", ["flip a bit", "cut", "other kind", "no json", "missing", "no fingerprint"])
def test_damage_is_noticed(encoder: TextEncoder, tmp_path: Path, damage: str) -> None:
    encoder.save(tmp_path)
    weights, description = tmp_path / "text.safetensors", tmp_path / "text.json"
    data = bytearray(weights.read_bytes())
    if damage == "flip a bit":
        data[-5] ^= 1
        weights.write_bytes(data)
    elif damage == "cut":
        weights.write_bytes(data[: len(data) // 2])
    elif damage == "other kind":
        description.write_text(description.read_text().replace('"quick_gelu": true', '"quick_gelu": false'))
    elif damage == "no json":
        description.write_text("{")
    elif damage == "missing":
        weights.unlink()
    else:
        description.write_text("{}")
    with pytest.raises(UserError, match=r"text\.(json|safetensors)") as caught:
        load_text_encoder(tmp_path)
    assert "\n" not in str(caught.value)


def test_local_weights_of_a_whole_model(
    whole: open_clip.CLIP, encoder: TextEncoder, tiny_architecture: str, tmp_path: Path
) -> None:
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    built = build_text_encoder(f"open_clip:{tiny_architecture}:{tmp_path / 'w.safetensors'}")
    assert torch.equal(built.encode(TEXTS), encoder.encode(TEXTS))
    assert built.fingerprint == encoder.fingerprint
    save_file({"token_embedding.weight": torch.ones(3, 3)}, tmp_path / "bad.safetensors")
    (tmp_path / "text.pt").write_text("not weights")
    for file in ("bad.safetensors", "text.pt"):
        with pytest.raises(UserError, match=rf"{file}: holds no weights of tiny-test") as caught:
            build_text_encoder(f"open_clip:{tiny_architecture}:{tmp_path / file}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("open_clip:ViT-B-32", "names no weights"),
        ("open_clip:", "nothing after"),
        ("open_clip:ViT-B-33:openai", "no such architecture"),
        ("open_clip:ViT-B-32:openaj", "tags of ViT-B-32: openai"),
        ("open_clip:coca_ViT-B-32:laion2b_s13b_b90k", "open_clip's own"),
        ("open_clip:ViT-B-16-SigLIP:webli", "open_clip's own"),
        ("tabel:x.npz", "did you mean 'table:"),
        ("", "unknown kind"),
        ("run:/nowhere/at/all", "no such run"),
    ],
)
def test_bad_specifications(spec: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        build_text_encoder(spec)


def test_offline_says_to_give_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(open_clip_weights.huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(open_clip_weights, "hub_has_address", lambda: False)
    with pytest.raises(UserError, match="give a local file: open_clip:ViT-B-32:/path"):
        build_text_encoder("open_clip:ViT-B-32:openai")


def test_a_tag_brings_its_activation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # the architecture's name does not say that OpenAI's weights want QuickGELU
    (tmp_path / "w").touch()
    monkeypatch.setattr(open_clip_weights, "_cached", lambda tag: tmp_path / "w")
    assert open_clip_weights.find_weights("ViT-B-32", "openai") == (tmp_path / "w", True)
    assert open_clip_weights.find_weights("ViT-B-32", "laion2b_s34b_b79k") == (tmp_path / "w", False)
