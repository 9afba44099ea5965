"""What every method promises. A method's test file derives from `MethodContract` and says how to make one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ray.data.sample import DecodedSample
from ovseg_ray.methods.base import Batch, Encoding, Method
from ovseg_ray.methods.export import load_model, save_model
from ovseg_ray.vocabulary import TextEncoder, Vocabulary
from ovseg_ray.vocabulary.table_encoder import TableTextEncoder

WORDS = 300
# inputs no network likes: one pixel, a line, odd sizes, a multiple of 32
SIZES = [(1, 1), (1, 40), (37, 65), (64, 96)]


def words(count: int) -> list[str]:
    """Names that `text_table` knows."""
    return [f"word {i}" for i in range(count)]


def text_table(dim: int = 16) -> TextEncoder:
    """Random vectors for `WORDS` words."""
    return TableTextEncoder(words(WORDS), torch.randn(WORDS, dim, generator=torch.Generator().manual_seed(0)))


def samples(count: int, classes: int, size: tuple[int, int] = (50, 70)) -> list[DecodedSample]:
    """Noise pictures with noise masks, part of them ignored."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(count):
        mask = rng.integers(0, classes, size).astype(np.uint8)
        mask[: size[0] // 4] = 255
        made.append(DecodedSample(f"sample {index}", rng.integers(0, 256, (*size, 3), dtype=np.uint8), mask, ()))
    return made


def batch_of(method: Method, count: int, label_sets: Sequence[int], classes: int) -> Batch:
    """A training batch of noise, as the loop would make it."""
    transform = type(method).transform(method.config, training=True)
    examples = [
        transform(sample, label_sets[index], np.random.default_rng(index))
        for index, sample in enumerate(samples(count, classes))
    ]
    return type(method).collate(examples)


def label_vectors(encoder: TextEncoder, count: int) -> Tensor:
    """(count, D) vectors of the first words."""
    return encoder.encode(words(count))


class MethodContract(ABC):
    """The shared suite."""

    rounding = 1e-5  # of a confidence or score, between two ways to the same

    @abstractmethod
    def method(self) -> Method:
        """A small method, ready for training: text encoder given, prepared, in train mode."""

    @abstractmethod
    def batch(self, method: Method) -> Batch:
        """A training batch for it."""

    @abstractmethod
    def upsampled(self, method: Method, encoding: Encoding, text: Tensor, size: tuple[int, int]) -> Tensor:
        """Dense scores (B, N, *size), by the plainest code."""

    def inputs(self, method: Method, size: tuple[int, int]) -> Tensor:
        """One preprocessed noise picture of that size as a batch."""
        picture = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
        return method.preprocess(picture).unsqueeze(0)

    # ---- training
    def test_losses_are_finite_scalars_with_gradients_for_every_parameter(self) -> None:
        method = self.method()
        losses = method.losses(self.batch(method))
        assert losses
        for name, loss in losses.items():
            assert loss.shape == (), name
            assert loss.isfinite(), name
        sum(losses.values()).backward()  # type: ignore[union-attr]
        for name, parameter in method.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"{name} is not used"
                assert parameter.grad.isfinite().all(), name

    def test_parameter_groups_hold_every_parameter_once(self) -> None:
        method = self.method()
        grouped = [id(p) for group in method.parameter_groups() for p in group.parameters]
        assert len(grouped) == len(set(grouped))
        assert set(grouped) == {id(p) for p in method.parameters() if p.requires_grad}

    def test_text_tower_is_no_part_of_the_state(self) -> None:
        method = self.method()
        assert not [key for key in method.state_dict() if "text" in key]

    def test_loss_weights_name_losses(self) -> None:
        method = self.method()
        batch = self.batch(method)
        weights = method.loss_weights(batch)
        assert set(weights) <= set(method.losses(batch))
        assert all(weight.shape == () and weight > 0 for weight in weights.values())

    def test_loss_of_nothing_is_zero(self) -> None:
        method = self.method()
        batch = self.batch(method)
        batch["target"] = torch.full_like(batch["target"], -1)
        losses = method.losses(batch)
        assert {name: loss.item() for name, loss in losses.items()} == dict.fromkeys(losses, 0.0)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())

    def test_transform_is_decided_by_its_generator(self) -> None:
        method = self.method()
        first, second = self.batch(method), self.batch(method)
        assert all(torch.equal(first[key], second[key]) for key in first)

    def test_bf16_autocast_trains_and_segments(self) -> None:
        method = self.method()
        with torch.autocast("cpu", torch.bfloat16):
            losses = method.losses(self.batch(method))
        sum(losses.values()).backward()  # type: ignore[union-attr]
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
        method.eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            encoding = method.encode(self.inputs(method, (40, 40)))
            found = method.segment(encoding, self.text(method, 5), (40, 40))
        assert found.confidence.isfinite().all()

    # ---- inference
    def text(self, method: Method, count: int) -> Tensor:
        """(count, D) label vectors."""
        assert method.text_encoder is not None
        return label_vectors(method.text_encoder, count)

    @torch.no_grad()
    def test_scores_follow_the_labels_asked(self) -> None:
        method = self.method().eval()
        encoding, text = method.encode(self.inputs(method, (40, 56))), self.text(method, 7)
        scores = method.scores(encoding, text)
        assert scores.shape[:2] == (1, 7)
        assert scores.dtype == torch.float32
        order = torch.tensor([6, 2, 0, 1, 5, 4, 3])
        torch.testing.assert_close(method.scores(encoding, text[order]), scores[:, order], atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("labels", [1, 5, WORDS])
    def test_segment_equals_the_dense_path(self, size: tuple[int, int], labels: int) -> None:
        method = self.method().eval()
        encoding, text = method.encode(self.inputs(method, size)), self.text(method, labels)
        for target in {size, (size[0] * 2 + 1, max(1, size[1] // 2))}:
            self.check_segment(method, encoding, text, target)

    @torch.no_grad()
    @pytest.mark.parametrize("size", SIZES)
    def test_dense_scores_are_those_that_segment_streams_over(self, size: tuple[int, int]) -> None:
        method = self.method().eval()
        encoding, text = method.encode(self.inputs(method, size)), self.text(method, 5)
        for target in (size, (size[0] * 2 + 1, max(1, size[1] // 2))):
            dense = method.dense_scores(encoding, text, target)
            torch.testing.assert_close(dense, self.upsampled(method, encoding, text, target), atol=1e-4, rtol=1e-4)
            rows = (target[0] // 3, target[0] // 2 + 1)
            part = method.dense_scores(encoding, text, target, rows)
            torch.testing.assert_close(part, dense[:, :, rows[0] : rows[1]], atol=self.rounding, rtol=1e-5)
            if not method.labels_interact:
                alone = method.dense_scores(encoding, text[3:4], target)
                torch.testing.assert_close(alone, dense[:, 3:4], atol=1e-4, rtol=1e-4)

    @torch.no_grad()
    def test_padding_may_be_done_before(self) -> None:
        method = self.method().eval()
        image, text = self.inputs(method, (37, 65)), self.text(method, 5)
        right, bottom = -65 % method.pads_to, -37 % method.pads_to
        padded = method.encode(F.pad(image, (0, right, 0, bottom), mode="replicate"))
        found = method.segment(replace(padded, size=(37, 65)), text, (37, 65))
        expected = method.segment(method.encode(image), text, (37, 65))
        assert torch.equal(found.label_map, expected.label_map)
        assert torch.equal(found.confidence, expected.confidence)

    def check_segment(self, method: Method, encoding: Encoding, text: Tensor, size: tuple[int, int]) -> None:
        """`segment` against the argmax and softmax of dense scores."""
        dense = self.upsampled(method, encoding, text, size)
        found = method.segment(encoding, text, size)
        probability, winner = dense.softmax(1).max(1)
        assert found.label_map.shape == found.confidence.shape == (len(dense), *size)
        assert found.label_map.dtype == torch.int64
        assert found.confidence.dtype == torch.float32
        torch.testing.assert_close(found.confidence, probability, atol=self.rounding, rtol=1e-4)
        if dense.shape[1] > 1:
            best = dense.topk(2, dim=1).values
            clear = best[:, 0] - best[:, 1] > 10 * self.rounding  # rounding may decide a near tie either way
            assert torch.equal(found.label_map[clear], winner[clear])

    @torch.no_grad()
    def test_lowest_index_wins_a_tie(self) -> None:
        method = self.method().eval()
        encoding = method.encode(self.inputs(method, (37, 65)))
        text = self.text(method, 150).repeat(2, 1)
        found = method.segment(encoding, text, (37, 65))
        assert found.label_map.max() < 150
        once = method.segment(encoding, text[:150], (37, 65))
        assert torch.equal(found.label_map, once.label_map)
        dense = self.upsampled(method, encoding, text, (37, 65)).softmax(1).amax(1)
        torch.testing.assert_close(found.confidence, dense, atol=1e-5, rtol=1e-4)

    @torch.no_grad()
    def test_a_batch_is_its_images(self) -> None:
        method = self.method().eval()
        images, text = torch.cat([self.inputs(method, (40, 56))] * 2), self.text(method, 5)
        images[1] = images[1].flip(-1)
        both = method.segment(method.encode(images), text, (40, 56))
        for index in range(2):
            alone = method.segment(method.encode(images[index : index + 1]), text, (40, 56))
            torch.testing.assert_close(both.confidence[index], alone.confidence[0], atol=1e-5, rtol=1e-4)

    @torch.no_grad()
    def test_export_and_load_change_nothing(self, tmp_path: Path) -> None:
        method = self.method().eval()
        labels = [Vocabulary.of(words(4))]
        save_model(method, tmp_path / "model", vocabularies=labels, provenance={"seed": 3})
        loaded = load_model(tmp_path / "model")
        assert type(loaded) is type(method)
        assert not loaded.training
        inputs, text = self.inputs(method, (37, 65)), self.text(method, 5)
        assert torch.equal(self.text(loaded, 5), text)
        expected, got = (m.segment(m.encode(inputs), text, (37, 65)) for m in (method, loaded))
        assert torch.equal(expected.label_map, got.label_map)
        assert torch.equal(expected.confidence, got.confidence)
        assert not [path for path in (tmp_path / "model").rglob("*") if path.suffix in (".pt", ".pkl", ".bin")]
