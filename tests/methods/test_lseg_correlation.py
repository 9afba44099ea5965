"""Word-pixel correlation: the definition against the original, the folded form against the definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ray.methods.lseg.correlation import (
    inverse_norms,
    label_projection,
    merge_projections,
    word_pixel_correlation,
)
from ovseg_ray.methods.lseg.losses import cross_entropy_sum, pixel_weight
from ovseg_ray.networks.fusion import upsample2

GOLDEN = np.load(Path(__file__).parents[1] / "golden/lseg/correlation_loss.npz")


def golden(name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[name])


def folded(features: Tensor, weight: Tensor, bias: Tensor, text: Tensor, scale: float) -> Tensor:
    projection, offset = label_projection(text, weight, bias, scale)
    return F.conv2d(features, projection[:, :, None, None], offset) * inverse_norms(features, weight, bias)


def test_scale_is_that_of_the_paper() -> None:
    assert float(golden("logit_scale")) == pytest.approx(1 / 0.07, rel=1e-6)


def test_definition_matches_the_original() -> None:
    logits = word_pixel_correlation(golden("pixel_features"), golden("text_features"), 1 / 0.07)
    np.testing.assert_allclose(logits, golden("logits_fp32"), atol=1e-5)
    np.testing.assert_allclose(upsample2(logits), golden("logits_fp32_upsampled"), atol=1e-5)
    np.testing.assert_allclose(upsample2(logits), golden("logits_half_upsampled"), atol=2e-2)


@pytest.mark.parametrize("form", ["definition", "folded"])
def test_loss_and_gradient_match_the_original(form: str) -> None:
    pixels, target = golden("pixel_features").requires_grad_(), golden("target")
    if form == "definition":
        logits = word_pixel_correlation(pixels, golden("text_features"), 1 / 0.07)
    else:
        logits = folded(pixels, torch.eye(512), torch.zeros(512), golden("text_features"), 1 / 0.07)
    loss = cross_entropy_sum(upsample2(logits), target) / pixel_weight(target)
    loss.backward()
    np.testing.assert_allclose(loss.detach(), golden("loss"), atol=1e-5)
    np.testing.assert_allclose(pixels.grad, golden("grad_pixel_features"), atol=1e-5)


def test_folded_form_equals_the_definition_in_values_and_gradients() -> None:
    torch.manual_seed(0)
    text = torch.randn(9, 24)
    results = []
    for form in ("definition", "folded"):
        generator = torch.Generator().manual_seed(1)
        z, w, b = (
            torch.randn(*shape, generator=generator).requires_grad_() for shape in ((2, 6, 5, 7), (24, 6), (24,))
        )
        if form == "definition":
            logits = word_pixel_correlation(F.conv2d(z, w[:, :, None, None], b), text, 10.0)
        else:
            logits = folded(z, w, b, text, 10.0)
        F.cross_entropy(logits, torch.arange(70).view(2, 5, 7) % 9).backward()
        results.append([logits.detach(), z.grad, w.grad, b.grad])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_merged_projections_are_one_after_the_other() -> None:
    torch.manual_seed(0)
    first, second, x = torch.nn.Linear(3, 4), torch.nn.Linear(4, 5), torch.randn(2, 3)
    weight, bias = merge_projections((first.weight, first.bias), (second.weight, second.bias))
    torch.testing.assert_close(x @ weight.t() + bias, second(first(x)))
    assert merge_projections(None, (second.weight, second.bias))[0] is second.weight


def test_an_all_zero_pixel_scores_zero_and_not_nan() -> None:
    z = torch.zeros(1, 4, 1, 1, requires_grad=True)
    scores = folded(z, torch.eye(4), torch.zeros(4), torch.eye(4), 10.0)
    scores.sum().backward()
    assert scores.eq(0).all()
    assert z.grad is not None
    assert z.grad.isfinite().all()
