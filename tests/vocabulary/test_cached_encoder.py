"""Vectors of prompts on disk: the same as the tower's, which is asked once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import ovseg_ray.vocabulary.cached_encoder as module
from ovseg_ray.errors import UserError
from ovseg_ray.vocabulary import LabelEmbeddings, Vocabulary
from ovseg_ray.vocabulary.cached_encoder import CachedTextEncoder
from ovseg_ray.vocabulary.encoders import build_text_encoder, load_text_encoder


@pytest.fixture
def spec(tmp_path: Path) -> str:
    vectors = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    np.savez(tmp_path / "table.npz", names=np.array(["sky", "grass", "cat", "dog"]), embeddings=vectors)
    return f"table:{tmp_path / 'table.npz'}"


def test_each_text_is_encoded_once(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower, asked = build_text_encoder(spec), []

    class Counting:
        dim = tower.dim

        def encode(self, texts: list[str]) -> torch.Tensor:
            asked.extend(texts)
            return tower.encode(texts)

    monkeypatch.setattr(module, "build_text_encoder", lambda given: Counting())
    first = CachedTextEncoder(spec, tmp_path / "cache")
    assert torch.equal(first.encode(["sky", "cat", "sky"]), tower.encode(["sky", "cat", "sky"]))
    assert torch.equal(first.encode(["dog", "cat"]), tower.encode(["dog", "cat"]))
    assert asked == ["sky", "cat", "dog"]
    assert len(list((tmp_path / "cache").glob("*/*.safetensors"))) == 2

    def refuse(given: str) -> None:
        raise AssertionError("the tower is not needed")

    monkeypatch.setattr(module, "build_text_encoder", refuse)
    again = CachedTextEncoder(spec, tmp_path / "cache")
    labels = Vocabulary.of(["dog", "sky"])
    assert again.dim == 8
    assert torch.equal(LabelEmbeddings(again).embed(labels), LabelEmbeddings(tower).embed(labels))
    with pytest.raises(AssertionError, match="not needed"):
        CachedTextEncoder("table:other.npz", tmp_path / "cache").encode(["sky"])


def test_what_is_saved_is_the_tower(spec: str, tmp_path: Path) -> None:
    encoder = CachedTextEncoder(spec, tmp_path / "cache")
    encoder.encode(["sky"])
    encoder.save(tmp_path / "text")
    assert (
        load_text_encoder(tmp_path / "text").fingerprint == build_text_encoder(spec).fingerprint == encoder.fingerprint
    )


def test_a_damaged_file_is_named(spec: str, tmp_path: Path) -> None:
    CachedTextEncoder(spec, tmp_path / "cache").encode(["sky"])
    (file,) = (tmp_path / "cache").glob("*/*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(UserError, match=f"{file.name}: is damaged"):
        CachedTextEncoder(spec, tmp_path / "cache").encode(["sky"])
