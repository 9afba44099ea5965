"""Streaming at every chunk size, and the memory it takes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from ovseg_ray.config import build
from ovseg_ray.methods.lseg import streaming
from ovseg_ray.methods.lseg.head_blocks import HeadBlock, HeadBlockConfig
from ovseg_ray.methods.lseg.resampling import upsample_scores


def grid(seed: int = 0, half: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 6, 16 if half else 8, 24 if half else 12, generator=generator)
    return features, torch.rand(2, 1, 16, 24, generator=generator) + 0.5


def dense(features: Tensor, norms: Tensor, weight: Tensor, bias: Tensor, block: HeadBlock | None) -> Tensor:
    scores = torch.einsum("bdhw,kd->bkhw", features, weight) + bias[:, None, None]
    scores = torch.nn.functional.interpolate(scores, size=norms.shape[2:], mode="bilinear", align_corners=True) * norms
    return scores if block is None else block(scores)


@pytest.mark.parametrize("kind", ["none", "depthwise", "bottleneck"])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("labels_at_once", "scores_at_once"), [(1, 1), (3, 500), (7, 4000), (128, 10**9)])
@torch.no_grad()
def test_chunks_do_not_show(
    monkeypatch: pytest.MonkeyPatch, kind: str, half: bool, labels_at_once: int, scores_at_once: int
) -> None:
    monkeypatch.setattr(streaming, "LABELS_AT_ONCE", labels_at_once)
    monkeypatch.setattr(streaming, "SCORES_AT_ONCE", scores_at_once)
    torch.manual_seed(0)
    block = None if kind == "none" else HeadBlock(build(HeadBlockConfig, {"kind": kind, "depth": 3}))
    features, norms = grid(half=half)
    weight, bias = torch.randn(10, 6), torch.randn(10)
    for size in ((29, 45), (50, 20), (1, 1)):
        found = streaming.segment(features, norms, weight, bias, block, (29, 45), size)
        scores = upsample_scores(dense(features, norms, weight, bias, block), (29, 45), size, (32, 48))
        confidence, winner = scores.softmax(1).max(1)
        torch.testing.assert_close(found.confidence, confidence, atol=1e-5, rtol=1e-4)
        assert (found.label_map == winner).float().mean() > 0.999


@pytest.mark.parametrize("labels_at_once", [1, 2, 100])
def test_equal_labels_tie_at_the_lowest_whatever_the_chunks(
    monkeypatch: pytest.MonkeyPatch, labels_at_once: int
) -> None:
    monkeypatch.setattr(streaming, "LABELS_AT_ONCE", labels_at_once)
    features, norms = grid()
    weight, bias = torch.randn(3, 6)[[0, 1, 0, 2, 1, 0]], torch.tensor([0.1, 0.2, 0.1, 0.3, 0.2, 0.1])
    found = streaming.segment(features, norms, weight, bias, None, (32, 48), (32, 48))
    assert set(found.label_map.unique().tolist()) <= {0, 1, 3}
    confidence = upsample_scores(dense(features, norms, weight, bias, None), (32, 48), (32, 48), (32, 48)).softmax(1)
    torch.testing.assert_close(found.confidence, confidence.amax(1))


def test_scores_far_apart_do_not_overflow() -> None:
    features, norms = grid()
    found = streaming.segment(features, norms, torch.randn(5, 6) * 1e4, torch.zeros(5), None, (32, 48), (32, 48))
    assert found.confidence.isfinite().all()
    assert found.confidence.max() <= 1


@pytest.mark.parametrize("repeats", [1, 3])
def test_confidence_is_exact_where_one_label_is_far_below(repeats: int) -> None:
    # the labels that compete differ by little; what they are compared with must not be the far one
    features, norms = grid()
    weight, bias = torch.randn(4, 6) * 0.01, torch.tensor([-3e4, 0.0, 0.1, 0.2])
    weight, bias = weight.repeat(repeats, 1), bias.repeat(repeats)
    found = streaming.segment(features, norms, weight, bias, None, (32, 48), (32, 48))
    scores = upsample_scores(dense(features, norms, weight, bias, None), (32, 48), (32, 48), (32, 48))
    torch.testing.assert_close(found.confidence, scores.softmax(1).amax(1), atol=1e-5, rtol=1e-5)
    assert found.confidence.max() <= 1


def test_what_is_not_a_number_has_no_confidence() -> None:
    features, norms = grid()
    features[1] = torch.nan
    found = streaming.segment(features, norms, torch.randn(5, 6), torch.zeros(5), None, (32, 48), (32, 48))
    assert found.confidence[1].isnan().all()
    assert not found.confidence[0].isnan().any()
    assert found.label_map.min() >= 0
    assert found.label_map.max() < 5


def test_memory_does_not_grow_with_labels() -> None:
    # 4 000 labels at 256 x 256 are 1 GB of scores; peak memory is measured in a process of its own
    code = """
import resource, torch
from ovseg_ray.methods.lseg.streaming import segment
torch.set_num_threads(1)
features, norms = torch.randn(1, 8, 64, 64), torch.rand(1, 1, 128, 128)
weight, bias = torch.randn(4000, 8), torch.zeros(4000)
segment(features, norms, weight[:4], bias[:4], None, (256, 256), (256, 256))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
segment(features, norms, weight, bias, None, (256, 256), (256, 256))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(output) < 150  # MB
