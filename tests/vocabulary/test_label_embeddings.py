"""Averages over templates and synonyms, and the cache of prompts."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovseg_ray.vocabulary import Label, LabelEmbeddings, TextEncoder, Vocabulary
from ovseg_ray.vocabulary import label_embeddings as module


class HashEncoder(TextEncoder):
    """Random unit vectors that depend on the text alone; remembers what it was asked."""

    dim = 6
    fingerprint = "hash"

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        self.gate.wait(10)
        self.calls.append(list(texts))
        rows = [np.random.default_rng(list(text.encode())).normal(size=self.dim) for text in texts]
        return F.normalize(torch.tensor(np.array(rows), dtype=torch.float32), dim=-1)

    def save(self, directory: Path) -> None:
        raise AssertionError


RAGGED = Vocabulary(
    (Label("sky", ("sky",)), Label("car", ("car", "automobile", "motor {car}")), Label("cat", ("cat", "kitty"))),
    ("{}", "a photo of a {}", "the {}."),
)


def expected(vocabulary: Vocabulary) -> torch.Tensor:
    """The definition, one prompt at a time, in double precision."""
    encoder = HashEncoder()
    rows = []
    for label in vocabulary.labels:
        synonyms = []
        for text in label.synonyms:
            vectors = [encoder.encode([t.replace("{}", text)])[0].double() for t in vocabulary.templates]
            synonyms.append(F.normalize(torch.stack(vectors).mean(0), dim=0))
        rows.append(F.normalize(torch.stack(synonyms).mean(0), dim=0))
    return torch.stack(rows)


@pytest.mark.parametrize("at_once", [1, 4, 4096])
def test_mean_over_templates_then_synonyms(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROMPTS_AT_ONCE", at_once)
    result = LabelEmbeddings(HashEncoder()).embed(RAGGED)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected(RAGGED), rtol=0, atol=2e-7)


def test_order_of_means_matters_here() -> None:
    # guards the test above: one flat mean over all prompts is another vector
    encoder = HashEncoder()
    prompts = [t.replace("{}", s) for s in RAGGED.labels[1].synonyms for t in RAGGED.templates]
    flat = F.normalize(encoder.encode(prompts).mean(0), dim=0)
    assert (flat.double() - expected(RAGGED)[1]).abs().max() > 1e-4


def test_a_repeated_list_calls_no_tower() -> None:
    encoder = HashEncoder()
    embeddings = LabelEmbeddings(encoder)
    first = embeddings.embed(RAGGED)
    assert embeddings.encoded == 6 * 3
    assert len(encoder.calls) == 1
    assert torch.equal(embeddings.embed(RAGGED), first)
    assert torch.equal(embeddings.embed(RAGGED.subset(["cat"]))[0], first[2])
    assert (len(encoder.calls), embeddings.encoded) == (1, 18)


def test_only_new_prompts_are_encoded() -> None:
    encoder = HashEncoder()
    embeddings = LabelEmbeddings(encoder)
    embeddings.embed(Vocabulary.parse("sky, grass"))
    embeddings.embed(Vocabulary.parse("grass, sky, tree, timber|tree"))
    assert encoder.calls == [["sky", "grass"], ["tree", "timber"]]


def test_the_least_recently_used_prompt_is_forgotten() -> None:
    encoder = HashEncoder()
    embeddings = LabelEmbeddings(encoder, max_prompts=2)
    for text in ("a", "b", "a", "c", "a"):
        embeddings.embed(Vocabulary.of([text]))
    assert encoder.calls == [["a"], ["b"], ["c"]]
    embeddings.embed(Vocabulary.of(["b"]))
    assert encoder.calls[-1] == ["b"]


def test_a_list_longer_than_the_cache_is_right() -> None:
    embeddings = LabelEmbeddings(HashEncoder(), max_prompts=3)
    torch.testing.assert_close(embeddings.embed(RAGGED).double(), expected(RAGGED), rtol=0, atol=2e-7)
    torch.testing.assert_close(embeddings.embed(RAGGED).double(), expected(RAGGED), rtol=0, atol=2e-7)


def test_threads_share_one_forward_pass() -> None:
    encoder = HashEncoder()
    encoder.gate.clear()
    embeddings = LabelEmbeddings(encoder)
    results: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(embeddings.embed(RAGGED))) for _ in range(6)]
    for thread in threads:
        thread.start()
    encoder.gate.set()
    for thread in threads:
        thread.join(10)
    assert len(results) == 6
    assert all(torch.equal(result, results[0]) for result in results)
    assert (len(encoder.calls), embeddings.encoded) == (1, 18)


def test_a_cached_list_does_not_wait_for_the_tower() -> None:
    encoder = HashEncoder()
    embeddings = LabelEmbeddings(encoder)
    embeddings.embed(RAGGED)
    encoder.gate.clear()
    slow = threading.Thread(target=lambda: embeddings.embed(Vocabulary.of(["new"])))
    slow.start()
    quick = threading.Thread(target=lambda: embeddings.embed(RAGGED))
    quick.start()
    quick.join(5)
    assert not quick.is_alive()
    assert slow.is_alive()
    encoder.gate.set()
    slow.join(10)
