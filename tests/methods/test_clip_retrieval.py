"""Recall of pairs, by hand."""

from __future__ import annotations

import pytest
import torch

from ovseg_ray.methods.clip.retrieval import recall


def tokens(*captions: int) -> torch.Tensor:
    return torch.tensor(captions)[:, None].repeat(1, 3)


def test_both_directions() -> None:
    eye = torch.eye(8)
    own = tokens(*range(8))
    assert recall(eye, eye, own) == {"recall_at_1": 1.0, "recall_at_5": 1.0}
    assert recall(eye, eye[[1, 0, 2, 3, 4, 5, 6, 7]], own)["recall_at_1"] == pytest.approx(6 / 8)
    images = eye.clone()
    images[0] = torch.tensor([0.1, 1, 0.9, 0.8, 0.7, 0.6, 0, 0])  # its own caption comes sixth
    assert recall(images, eye, own)["recall_at_5"] == pytest.approx((7 / 8 + 1) / 2)


def test_equal_captions_are_one_answer() -> None:
    pairs = torch.eye(4)[[0, 0, 2, 3]]
    assert recall(pairs, pairs, tokens(7, 7, 2, 3))["recall_at_1"] == 1.0
