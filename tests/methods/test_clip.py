"""CLIP as a method."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from ovseg_ray.config import TrainingConfig
from ovseg_ray.data.sample import DecodedSample
from ovseg_ray.errors import UserError
from ovseg_ray.methods import get_method
from ovseg_ray.methods.clip import Clip, ClipConfig
from ovseg_ray.methods.clip.image_encoder import build_image_encoder
from ovseg_ray.methods.clip.transform import WORD_BUCKETS, ClipTransform
from ovseg_ray.methods.export import load_model, save_model
from ovseg_ray.networks import SmallEncoder
from ovseg_ray.training.config import resolve_config
from ovseg_ray.vocabulary import LabelEmbeddings, Vocabulary, build_text_encoder
from ovseg_ray.vocabulary.tokenizer import open_clip_tokenizer

RESNET: dict[str, Any] = {"channels": None, "layers": (1, 1, 1, 1), "width": 8, "head_width": 16}
SMALL: dict[str, Any] = {"channels": (8, 8, 16, 16)}
TRANSFORMER = {"channels": None, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 12, "width": 32, "heads": 2, "layers": 1}
COLOURS = {
    "red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (250, 250, 250),
    "black": (5, 5, 5), "yellow": (230, 230, 10), "purple": (150, 10, 150), "cyan": (10, 220, 220),
}  # fmt: skip


def small(**changes: Any) -> ClipConfig:
    return ClipConfig(**{"embed_dim": 16, "image_size": 32, "vision": RESNET, "word_loss": 0, "text": TEXT, **changes})


def sample(name: str, captions: tuple[str, ...] | None = None, size: tuple[int, int] = (40, 24)) -> DecodedSample:
    image = np.full((*size, 3), COLOURS.get(name, (9, 9, 9)), np.uint8)
    return DecodedSample(name, image, None, (f"a {name} thing",) if captions is None else captions)


def batch_of(config: ClipConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    transform = Clip.transform(config)
    rng = np.random.default_rng(seed)
    return Clip.collate([transform(sample(name), 0, rng) for name in COLOURS])


@pytest.fixture
def clip() -> Clip:
    torch.manual_seed(0)
    return Clip(small())


# ---- configuration
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_size": 40}, "multiple of 32"),
        ({"image_size": 36, "vision": TRANSFORMER}, "multiple of 8"),
        ({"vision": {**RESNET, "head_width": 48}}, "divide the tower's 256 channels"),
        ({"text": {**TEXT, "heads": 3}}, "divide text.width"),
        ({"std": (0.2, 0.0, 0.2)}, "std must be positive"),
        ({"temperature": 0.001}, "greater than"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        small(**changes)


def test_the_preset_is_the_default() -> None:
    assert get_method("clip") is Clip
    assert ClipConfig.model_validate(resolve_config("clip", None, {}).model) == ClipConfig()


def test_accumulation_is_refused() -> None:
    Clip.check_training(TrainingConfig())
    with pytest.raises(UserError, match=r"training\.accumulate = 2"):
        resolve_config("clip", None, {"training": {"accumulate": 2}})


# ---- samples
def test_the_image_is_squeezed_and_normalised() -> None:
    config = small(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    image = Clip(config).preprocess(sample("red").image)
    assert image.shape == (3, 32, 32)
    expected = torch.tensor([(220 / 255 - 0.5) / 0.5, (20 / 255 - 0.25) / 0.25, 20 / 255])
    torch.testing.assert_close(image.amin((1, 2)), expected)
    torch.testing.assert_close(image.amax((1, 2)), expected)
    rng = np.random.default_rng(0)
    assert torch.equal(Clip.transform(config)(sample("red"), 0, rng)["image"], image)


def test_one_caption_is_drawn_by_the_given_generator() -> None:
    config = small()
    transform = pickle.loads(pickle.dumps(Clip.transform(config)))  # loader processes get it so
    captions = ("a red thing", "the sky", "a photo of grass")
    tokens = open_clip.SimpleTokenizer(context_length=12)(list(captions))
    drawn = [transform(sample("red", captions), 0, np.random.default_rng(i))["tokens"] for i in range(40)]
    which = [[bool(torch.equal(row, one)) for row in tokens].index(True) for one in drawn]
    assert set(which) == {0, 1, 2}
    again = transform(sample("red", captions), 0, np.random.default_rng(7))["tokens"]
    assert torch.equal(again, drawn[7])


def test_a_sample_without_caption_is_named() -> None:
    with pytest.raises(UserError, match="image 'red': has no caption"):
        Clip.transform(small())(sample("red", ()), 0, np.random.default_rng(0))


# ---- training
def test_loss_is_the_symmetric_cross_entropy(clip: Clip) -> None:
    batch = batch_of(clip.config)
    clip.eval()
    image = clip.towers.encode_image(batch["image"], normalize=True)
    text = clip.towers.encode_text(batch["tokens"], normalize=True)
    logits = image @ text.T / clip.config.temperature
    truth = torch.arange(len(logits))
    expected = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
    losses = clip.losses(batch)
    assert list(losses) == ["contrastive"]
    torch.testing.assert_close(losses["contrastive"], expected)


def test_loss_is_computed_in_full_precision_under_autocast(clip: Clip) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert clip.losses(batch_of(clip.config))["contrastive"].dtype == torch.float32


def test_every_parameter_is_in_one_group_and_gains_are_not_decayed(clip: Clip) -> None:
    decayed, plain = clip.parameter_groups()
    assert decayed.decay
    assert not plain.decay
    names = {id(parameter): name for name, parameter in clip.named_parameters()}
    assert sorted(names) == sorted(id(p) for group in (decayed, plain) for p in group.parameters)
    kept = {names[id(parameter)] for parameter in plain.parameters}
    assert "towers.logit_scale" in kept
    assert "towers.ln_final.weight" in kept
    assert all(name.endswith("weight") is False or p.ndim == 1 for name, p in clip.named_parameters() if name in kept)
    assert "towers.token_embedding.weight" not in kept


@pytest.mark.parametrize(("before", "after"), [(-1.0, 0.0), (2.0, 2.0), (9.0, math.log(100))])
def test_the_logit_scale_is_bounded_after_each_step(clip: Clip, before: float, after: float) -> None:
    with torch.no_grad():
        clip.towers.logit_scale.fill_(before)
    clip.after_step()
    assert clip.towers.logit_scale.item() == pytest.approx(after)
    assert clip.towers.logit_scale.requires_grad


@pytest.mark.parametrize("vision", [SMALL, RESNET, TRANSFORMER], ids=["small", "resnet", "transformer"])
def test_overfits_eight_pairs(vision: dict[str, Any]) -> None:
    torch.manual_seed(0)
    clip = Clip(small(vision=vision)).train()
    groups = [{"params": group.parameters} for group in clip.parameter_groups()]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, fused=True)
    batch = batch_of(clip.config)
    first = last = math.inf
    for step in range(40):
        loss = clip.losses(batch)["contrastive"]
        first, last = (loss.item() if step == 0 else first), loss.item()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        clip.after_step()
    assert first > 1.5
    assert last < 0.1
    # the words of a list that was never seen in training name the images
    text = LabelEmbeddings(clip.text_encoder).embed(Vocabulary.of(COLOURS, ["a {} thing"]))
    with torch.no_grad():  # still with the batch's own statistics: the running ones lag behind 40 quick steps
        scores = clip.scores(clip.encode(batch["image"]), text)
    assert scores.argmax(1).flatten().tolist() == list(range(8))


# ---- inference
def test_scores_are_cosines_over_the_temperature(clip: Clip) -> None:
    clip.eval()
    images = batch_of(clip.config)["image"]
    text = F.normalize(torch.randn(3, 16), dim=1)
    encoding = clip.encode(images)
    assert encoding.size == (32, 32)
    torch.testing.assert_close(encoding.tensors["image"].norm(dim=1), torch.ones(8))
    scores = clip.scores(encoding, text)
    assert scores.shape == (8, 3, 1, 1)
    expected = F.cosine_similarity(clip.towers.encode_image(images)[:, None], text[None], dim=2) / 0.07
    torch.testing.assert_close(scores[:, :, 0, 0], expected)


def test_it_does_not_pretend_to_segment(clip: Clip) -> None:
    assert not Clip.segments
    encoding = clip.encode(batch_of(clip.config)["image"])
    with pytest.raises(UserError, match=r"model\.text=run:PATH"):
        clip.segment(encoding, torch.ones(1, 16), (4, 4))


def test_its_text_tower_goes_to_disk_and_back(clip: Clip, tmp_path: Path) -> None:
    clip.eval()
    text = ["a red car", "sky"]
    before = clip.text_encoder
    with torch.no_grad():
        tokens = open_clip.SimpleTokenizer(context_length=12)(text)
        torch.testing.assert_close(before.encode(text), clip.towers.encode_text(tokens, normalize=True))
    save_model(clip, tmp_path / "run" / "model", vocabularies=(), provenance={})
    again = load_model(tmp_path / "run" / "model")
    assert isinstance(again, Clip)
    assert again.config == clip.config
    images = batch_of(clip.config)["image"]
    assert torch.equal(again.encode(images).tensors["image"], clip.encode(images).tensors["image"])
    for path in (tmp_path / "run", tmp_path / "run" / "model"):
        encoder = build_text_encoder(f"run:{path}")
        assert encoder.fingerprint == before.fingerprint
        assert torch.equal(encoder.encode(text), before.encode(text))


def test_lsegs_small_encoder_starts_from_a_trained_tower(tmp_path: Path) -> None:
    clip = Clip(small(vision=SMALL, image_size=96))
    save_model(clip, tmp_path / "model", vocabularies=[], provenance={})
    encoder = SmallEncoder(SMALL["channels"], (1, 1, 1, 1))
    encoder.load_pretrained(tmp_path / "model" / "model.safetensors")
    ours, theirs = encoder.state_dict(), clip.towers.visual.encoder.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_run_with_another_tower_is_no_start_for_the_small_encoder(tmp_path: Path) -> None:
    save_model(Clip(small()), tmp_path / "model", vocabularies=[], provenance={})
    with pytest.raises(UserError, match="weights of the encoder"):
        SmallEncoder((8, 8, 16, 16), (1, 1, 1, 1)).load_pretrained(tmp_path / "model" / "model.safetensors")


def test_word_loss_asks_for_every_caption_of_the_image() -> None:
    config = small(vision=SMALL, image_size=96, word_loss=0.1)
    example = ClipTransform(config)(sample("red", ("a red dot", "blue")), 0, np.random.default_rng(0))
    tokens = {token for text in ("a red dot", "blue") for token in open_clip_tokenizer(12)(text)[0].tolist()}
    assert example["words"].nonzero().flatten().tolist() == sorted(t % WORD_BUCKETS for t in tokens if 0 < t < 49406)


def test_word_loss_needs_the_small_encoder() -> None:
    with pytest.raises(ValidationError, match="word_loss"):
        small(word_loss=0.1)


def test_image_tower_of_a_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    clip = Clip(small()).eval()
    save_model(clip, tmp_path / "run" / "model", vocabularies=[], provenance={})
    (tmp_path / "run" / "config.yaml").write_text("method: clip\n")
    embed = build_image_encoder(f"run:{tmp_path / 'run'}")
    pictures = [np.full((20 + i, 40, 3), colour, np.uint8) for i, colour in enumerate(COLOURS.values())]
    with torch.no_grad():
        expected = torch.cat([clip.encode(clip.preprocess(p)[None]).tensors["image"] for p in pictures])
    torch.testing.assert_close(embed(pictures), expected, atol=1e-5, rtol=1e-5)
    for spec, message in (
        ("table:x.npz", "has no image tower"),
        ("open_clip:ViT-Z:openai", "no such architecture"),
        ("open_clip:ViT-B-32", "names no weights"),
        (f"run:{tmp_path}", "not a run"),
        (str(tmp_path / "run"), f"did you mean run:{tmp_path / 'run'}"),
    ):
        with pytest.raises(UserError, match=message):
            build_image_encoder(spec)
