"""Text towers of the transformers library, from directories written here: tiny random models, real tokenizers."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from ovseg_ray.errors import UserError
from ovseg_ray.vocabulary import build_text_encoder, load_text_encoder
from ovseg_ray.vocabulary.encoders import absolute_spec

TEXTS = ["a red car", "Sky", "a photo of a cat in the scene, with more words than the tower can ever read of it"]
LENGTH = 12
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT |= {"max_position_embeddings": LENGTH, "pad_token_id": 1}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 32, "patch_size": 16}
LETTERS = "abcdefghijklmnopqrstuvwxyz,"


def clip_tokenizer() -> Any:
    """Byte pairs: letters, letters that end a word, and two merges."""
    symbols = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "ca", "car</w>", "<|startoftext|>", "<|endoftext|>"]
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[("c", "a"), ("ca", "r</w>")], model_max_length=LENGTH)


def siglip_tokenizer(directory: Path) -> Any:
    """Sentence pieces trained on these texts; 1 is the end and the padding, as published."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text.lower().replace(",", "") for text in TEXTS] * 20), model_writer=model,
        vocab_size=44, unk_id=2, eos_id=1, pad_id=0, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (directory / "spiece.model").write_bytes(model.getvalue())
    return transformers.SiglipTokenizer(
        str(directory / "spiece.model"), model_max_length=LENGTH, model_input_names=["input_ids"]
    )


def siglip2_tokenizer() -> Any:
    symbols = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS, "▁c", "▁ca"]
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    return transformers.Siglip2Tokenizer(
        vocab=vocab, merges=[("▁", "c"), ("▁c", "a")], model_max_length=LENGTH, model_input_names=["input_ids"],
        padding_side="right",
    )  # fmt: skip


@pytest.fixture(scope="module", params=["clip", "siglip", "siglip2"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """Directory of a whole model, the model, its tokenizer."""
    directory = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    if request.param == "clip":
        tokenizer = clip_tokenizer()
        text = {**TEXT, "vocab_size": len(tokenizer), "bos_token_id": len(tokenizer) - 2}
        text["eos_token_id"] = len(tokenizer) - 1
        model: Any = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
        )
    elif request.param == "siglip":
        tokenizer = siglip_tokenizer(directory)
        text = {**TEXT, "vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1, "projection_size": 20}
        model = transformers.SiglipModel(
            transformers.SiglipConfig(text_config=text, vision_config={**VISION, "hidden_size": 20})
        )
    else:
        tokenizer = siglip2_tokenizer()
        text = {**TEXT, "vocab_size": len(tokenizer), "bos_token_id": 2, "eos_token_id": 1}
        vision = {**VISION, "num_patches": 4}
        model = transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))
    with torch.no_grad():  # the initialisation leaves texts nearly alike
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory, model, tokenizer


def expected(model: Any, tokenizer: Any) -> torch.Tensor:
    """As the model's own documentation embeds texts."""
    padding = {"padding": True} if isinstance(model, transformers.CLIPModel) else {"padding": "max_length"}
    texts = TEXTS if isinstance(model, transformers.CLIPModel) else [text.lower() for text in TEXTS]
    tokens = tokenizer(texts, truncation=True, max_length=LENGTH, return_tensors="pt", **padding)
    with torch.no_grad():
        found = model.get_text_features(**tokens)
    return F.normalize(found if isinstance(found, torch.Tensor) else found.pooler_output, dim=-1)


def test_equal_to_transformers(saved: tuple[Path, Any, Any]) -> None:
    directory, model, tokenizer = saved
    encoder = build_text_encoder(f"transformers:{directory}")
    found = encoder.encode(TEXTS)
    assert found.shape == (3, encoder.dim)
    torch.testing.assert_close(found, expected(model, tokenizer), rtol=0, atol=1e-6)
    assert (found @ found.T).fill_diagonal_(0).max() < 0.99, "texts must differ for this to mean anything"
    assert not found.is_inference()
    # alone or among others: the same vector
    torch.testing.assert_close(encoder.encode(TEXTS[:1])[0], found[0], rtol=0, atol=1e-6)


def test_save_and_load_bit_for_bit(saved: tuple[Path, Any, Any], tmp_path: Path) -> None:
    encoder = build_text_encoder(f"transformers:{saved[0]}")
    encoder.save(tmp_path / "text")
    again = load_text_encoder(tmp_path / "text")
    assert sorted(path.name for path in (tmp_path / "text").iterdir()) == ["text.json", "text.safetensors"]
    assert again.fingerprint == encoder.fingerprint
    assert again.dim == encoder.dim
    assert torch.equal(again.encode(TEXTS), encoder.encode(TEXTS))


def test_the_text_tower_alone(saved: tuple[Path, Any, Any], tmp_path: Path) -> None:
    directory, model, tokenizer = saved
    classes: dict[str, Any] = {
        "CLIPModel": transformers.CLIPTextModelWithProjection,
        "SiglipModel": transformers.SiglipTextModel,
        "Siglip2Model": transformers.Siglip2TextModel,
    }
    name = type(model).__name__
    config = model.config.text_config
    if name == "CLIPModel":
        config.projection_dim = 24
    classes[name].from_pretrained(directory, config=config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = build_text_encoder(f"transformers:{tmp_path}").encode(TEXTS)
    assert torch.equal(found, build_text_encoder(f"transformers:{directory}").encode(TEXTS))


def copy(directory: Path, target: Path) -> Path:
    return Path(shutil.copytree(directory, target))


def test_missing_and_foreign_files(saved: tuple[Path, Any, Any], tmp_path: Path) -> None:
    directory = saved[0]

    def says(path: Path, text: str) -> None:
        with pytest.raises(UserError, match=text) as caught:
            build_text_encoder(f"transformers:{path}")
        assert "\n" not in str(caught.value)

    says(tmp_path / "nowhere", r"config\.json: No such file")
    foreign = copy(directory, tmp_path / "foreign")
    (foreign / "config.json").write_text(json.dumps({"model_type": "bert"}))
    says(foreign, "describes a 'bert' model; text towers of clip, siglip, siglip2")
    (foreign / "config.json").write_text("[]")
    says(foreign, "is not the JSON description")
    bare = copy(directory, tmp_path / "bare")
    weights = load_file(bare / "model.safetensors")
    (bare / "model.safetensors").unlink()
    # weights that only unpickling could read are not read
    torch.save(weights, bare / "pytorch_model.bin")
    says(bare, "no safetensors weights")
    (bare / "pytorch_model.bin").unlink()
    lost = next(name for name in sorted(weights) if name.startswith("text_model.encoder"))
    save_file({k: v for k, v in weights.items() if k != lost}, bare / "model.safetensors", {"format": "pt"})
    says(bare, "its weights lack '")
    mute = copy(directory, tmp_path / "mute")
    for path in mute.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    says(mute, r"has no tokenizer \(tokenizer\.json")
    (mute / "tokenizer.json").write_text("{}")
    says(mute, "has no tokenizer that can be read")


def test_specification_travels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_spec("transformers:models/x") == f"transformers:{tmp_path / 'models' / 'x'}"
    with pytest.raises(UserError, match="nothing after 'transformers:'"):
        build_text_encoder("transformers:")
