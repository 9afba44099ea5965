"""LSeg: the contract under every kind of network, mixed label sets, and the original's numbers end to end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract import MethodContract, batch_of, text_table, words
from original_decoder import GOLDEN, decoder_weights, golden
from torch import Tensor

from ovseg_ray.config import build
from ovseg_ray.errors import UserError
from ovseg_ray.methods.base import Batch, Encoding, Method
from ovseg_ray.methods.lseg import LSeg, LSegConfig
from ovseg_ray.methods.lseg.correlation import word_pixel_correlation
from ovseg_ray.networks.image_encoder import ImageEncoder
from ovseg_ray.vocabulary import Vocabulary

SMALL: dict[str, Any] = {
    "text": "table:unused.npz",
    "encoder": {"channels": [8, 8, 16, 16]},
    "width": 8,
    "augmentation": {"crop": [64, 96], "base_size": None},
}


def make(changes: dict[str, Any] | None = None, label_sets: int = 2) -> LSeg:
    torch.manual_seed(0)
    method = LSeg(build(LSegConfig, SMALL | (changes or {})))
    method.use_text_encoder(text_table())
    names = words(9)
    method.prepare([Vocabulary.of(names[:4], name="first"), Vocabulary.of(names[3:9], name="second")][:label_sets])
    return method


def dense_scores(method: LSeg, encoding: Encoding, text: Tensor) -> Tensor:
    """The definition: the wide joint embedding of every pixel, made in full."""
    features, head = encoding.tensors["features"], method.head
    assert head is not None
    if method.decoder.projection is not None:
        features = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
        features = method.decoder.projection(features)
    scores = word_pixel_correlation(head(features), text, 1 / method.config.temperature)
    return scores if method.block is None else method.block(scores)


class LSegContract(MethodContract):
    changes: dict[str, Any] = {}  # noqa: RUF012

    def method(self) -> Method:
        return make(self.changes)

    def batch(self, method: Method) -> Batch:
        return batch_of(method, 3, [0, 1, 0], classes=4)

    def upsampled(self, method: Method, encoding: Encoding, text: Tensor, size: tuple[int, int]) -> Tensor:
        assert isinstance(method, LSeg)
        scores = F.interpolate(
            dense_scores(method, encoding, text), scale_factor=2, mode="bilinear", align_corners=True
        )
        scores = scores[..., : encoding.size[0], : encoding.size[1]]
        if size == encoding.size:
            return scores
        # at another size, scores are sampled where that picture's pixels lie: not resized a second time
        return method._upsample(method.scores(encoding, text), encoding, size)


class TestSmall(LSegContract):
    pass


class TestBottleneckAtFinestStride2(LSegContract):
    changes = {  # noqa: RUF012
        "encoder": {"channels": [8, 8, 16, 16], "finest_stride": 2},
        "detail_width": 6,
        "head_block": {"kind": "bottleneck", "depth": 2},
        "loss": {"lovasz": 1.0, "class_weights": {"word 3": 2.0}},
    }


class TestDepthwise(LSegContract):
    changes = {"head_block": {"kind": "depthwise", "depth": 3, "activation": "tanh"}, "loss": {"label_smoothing": 0.1}}  # noqa: RUF012


class TestReference(LSegContract):
    changes = {"reference": True, "head_block": {"kind": "bottleneck", "depth": 2}}  # noqa: RUF012
    rounding = 8e-3  # what is rounded to half precision may fall to either side

    def upsampled(self, method: Method, encoding: Encoding, text: Tensor, size: tuple[int, int]) -> Tensor:
        assert isinstance(method, LSeg)
        return method._upsample(method.scores(encoding, text), encoding, size)

    @torch.no_grad()
    def test_a_batch_is_its_images(self) -> None:
        method = self.method().eval()
        images, text = torch.randn(2, 3, 64, 64), self.text(method, 5)
        both = method.segment(method.encode(images), text, (64, 64)).confidence
        alone = [method.segment(method.encode(image[None]), text, (64, 64)).confidence for image in images]
        torch.testing.assert_close(both, torch.cat(alone), atol=self.rounding, rtol=0)


class TestVisionTransformer(LSegContract):
    changes = {  # noqa: RUF012
        "encoder": {"name": "vit", "vit": {"image_size": 64, "patch_size": 16, "width": 32, "depth": 4, "heads": 2}}
    }


class TestMobileNet(LSegContract):
    changes = {"encoder": {"name": "mobilenet_v2", "batch_norm": "fold"}}  # noqa: RUF012


# ---- training
def test_each_sample_is_scored_over_its_own_labels() -> None:
    method = make().eval()
    batch = batch_of(method, 3, [0, 1, 1], classes=4)
    with torch.no_grad():
        encoding = method.encode(batch["image"])
        total = torch.zeros(())
        for index in range(3):
            labels = method.text_0 if batch["label_set"][index] == 0 else method.text_1
            scores = dense_scores(method, encoding.select(torch.tensor([index])), labels)
            logits = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=True)
            total += F.cross_entropy(logits, batch["target"][index : index + 1], ignore_index=-1, reduction="sum")
        losses = method.losses(batch)
    labelled = (batch["target"] >= 0).sum()
    torch.testing.assert_close(losses["cross_entropy"], total / labelled)
    assert method.loss_weights(batch)["cross_entropy"] == labelled


def test_one_label_set_gives_the_plain_weighted_cross_entropy() -> None:
    weights = {"word 1": 3.0, "word 2": 0.5}
    method = make({"loss": {"class_weights": weights, "label_smoothing": 0.1}}, label_sets=1).eval()
    batch = batch_of(method, 2, [0, 0], classes=4)
    with torch.no_grad():
        scores = dense_scores(method, method.encode(batch["image"]), method.text_0)
        logits = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=True)
        expected = F.cross_entropy(
            logits, batch["target"], torch.tensor([1.0, 3.0, 0.5, 1.0]), ignore_index=-1, label_smoothing=0.1
        )
        torch.testing.assert_close(method.losses(batch)["cross_entropy"], expected)


def test_cutting_a_batch_does_not_change_its_weighted_mean() -> None:
    method = make({"loss": {"class_weights": {"word 1": 3.0}}}).eval()
    batch = batch_of(method, 3, [0, 1, 0], classes=4)
    total = weight = torch.zeros(())
    with torch.no_grad():
        for index in range(3):
            part = {key: value[index : index + 1] for key, value in batch.items()}
            share = method.loss_weights(part)["cross_entropy"]
            total, weight = total + share * method.losses(part)["cross_entropy"], weight + share
        torch.testing.assert_close(total / weight, method.losses(batch)["cross_entropy"])


def test_training_learns_a_picture() -> None:
    method = make({"augmentation": {"crop": [64, 64], "base_size": None, "scale": [1, 1], "flip": 0}}, label_sets=1)
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(2, 3, 64, 64)
    target = torch.zeros(2, 64, 64, dtype=torch.int64)
    image[:, 0, :, 32:], target[:, :, 32:] = 1.0, 2
    batch = {"image": image + 0.1 * torch.randn(image.shape, generator=generator), "target": target}
    batch["label_set"] = torch.zeros(2, dtype=torch.int64)
    optimizer = torch.optim.AdamW(method.parameters(), 5e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss = method.losses(batch)["cross_entropy"]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3
    method.eval()
    found = method.segment(method.encode(batch["image"]), method.text_0, (64, 64))
    assert (found.label_map == target).float().mean() > 0.95


def test_pretrained_encoder_is_the_backbone() -> None:
    method = make({"encoder": {"name": "mobilenet_v2", "weights": "any.safetensors"}, "head_lr_scale": 10.0})
    backbone, head = method.parameter_groups()
    assert (backbone.backbone, backbone.lr_scale, head.backbone, head.lr_scale) == (True, 1.0, False, 10.0)
    assert not make().parameter_groups()[0].backbone


# ---- text
def test_joint_width_is_the_text_encoders() -> None:
    method = make()
    assert method.config.joint_width == 16
    assert method.head is not None
    assert method.head.out_channels == 16


def test_another_text_width_is_refused() -> None:
    with pytest.raises(UserError, match="16 numbers for a joint embedding of 32"):
        make({"joint_width": 32})


def test_templates_of_the_configuration_replace_those_of_the_labels() -> None:
    method = make({"templates": ["{}"]})
    assert all(labels.templates == ("{}",) for labels in method.label_sets)
    with pytest.raises(UserError, match="not in the table"):
        make({"templates": ["a photo of {}"]})


def test_weight_of_no_label_is_refused() -> None:
    with pytest.raises(UserError, match=r"class_weights: no label 'wrd 1'; did you mean 'word 1'"):
        make({"loss": {"class_weights": {"wrd 1": 2.0}}})


# ---- the original
class Recorded(ImageEncoder):
    """The maps of the original's encoder."""

    channels = (8, 16, 24, 32)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [golden(f"layer_{i}") for i in range(1, 5)]


def original() -> LSeg:
    changes = {"width": 16, "joint_width": 32, "encoder": {"channels": [8, 16, 24, 32]}}
    method = LSeg(build(LSegConfig, SMALL | changes))
    method.encoder = Recorded()
    method.decoder.load_state_dict(decoder_weights())
    assert method.head is not None
    method.head.load_state_dict({key: golden(f"w.scratch.head1.{key}") for key in ("weight", "bias")})
    return method.eval()


@torch.no_grad()
def test_scores_match_the_original() -> None:
    method, text = original(), golden("text_features")
    encoding = method.encode(torch.zeros(2, 3, 64, 96))
    scores = method.scores(encoding, text.half().float())
    np.testing.assert_allclose(scores, GOLDEN["logits_half_res_fp32"], atol=1e-5)
    np.testing.assert_allclose(method._upsample(scores, encoding, (64, 96)), GOLDEN["out_eval"], atol=2e-2)
    found = method.segment(encoding, F.normalize(text, dim=1), (64, 96))
    assert (found.label_map.numpy() == GOLDEN["out_eval"].argmax(1)).mean() > 0.99


@torch.no_grad()
def test_training_forward_matches_the_original() -> None:
    method, text = original().train(), golden("text_features")
    encoding = method.encode(torch.zeros(2, 3, 64, 96))
    scores = method._upsample(method.scores(encoding, text), encoding, (64, 96))
    np.testing.assert_allclose(scores, GOLDEN["out_train_bnbatch"], atol=2e-2)
