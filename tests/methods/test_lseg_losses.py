"""Loss terms against plain formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovseg_ray.methods.lseg import LSeg
from ovseg_ray.methods.lseg.config import LSegConfig
from ovseg_ray.methods.lseg.losses import cross_entropy_sum, lovasz_softmax, pixel_weight


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_sum_over_weight_is_torchs_mean(smoothing: float, weighted: bool) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 5, 6), torch.randint(-1, 4, (2, 5, 6))
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0]) if weighted else None
    mean = cross_entropy_sum(logits, target, weights, smoothing) / pixel_weight(target, weights)
    expected = F.cross_entropy(logits, target, weights, ignore_index=-1, label_smoothing=smoothing)
    torch.testing.assert_close(mean, expected)


def test_lovasz_is_the_jaccard_loss_at_hard_predictions() -> None:
    # for hard predictions the Lovász extension is 1 - IoU, averaged over the classes present
    target = torch.tensor([[[0, 0, 0, 1, 1, -1]]])
    prediction = torch.tensor([[[0, 0, 1, 1, 0, 0]]])
    logits = F.one_hot(prediction, 3).permute(0, 3, 1, 2) * 100.0
    expected = ((1 - 2 / 4) + (1 - 1 / 3)) / 2
    assert lovasz_softmax(logits, target, 1000).item() == pytest.approx(expected, abs=1e-5)


def test_lovasz_draws_only_labelled_pixels() -> None:
    torch.manual_seed(0)
    target = torch.full((1, 40, 40), -1)
    target[:, :20] = 1
    right = torch.zeros(1, 3, 40, 40)
    right[:, 1, :20], right[:, 2, 20:] = 50.0, 50.0
    assert lovasz_softmax(right, target, 100).item() == pytest.approx(0.0, abs=1e-5)


def test_lovasz_of_nothing_is_zero_with_a_gradient() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = lovasz_softmax(logits, torch.full((1, 4, 4), -1), 100)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None


def test_lovasz_gradient_points_downhill() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 8, 8, requires_grad=True), torch.randint(0, 3, (1, 8, 8))
    loss = lovasz_softmax(logits, target, 1000)
    loss.backward()
    assert logits.grad is not None
    assert lovasz_softmax(logits - 10 * logits.grad, target, 1000) < loss


def test_half_resolution_compares_at_the_nearest_pixels() -> None:
    lseg = LSeg(LSegConfig(joint_width=4, encoder={"name": "small"}, width=8, loss={"half_resolution": True}))
    target = torch.arange(6)[None, :, None].expand(1, 6, 8) * 10 + torch.arange(8)
    # three rows and four columns, corner to corner
    rows, columns = torch.tensor([0, 2, 5]), torch.tensor([0, 2, 5, 7])
    assert torch.equal(lseg._target({"target": target})[0], target[0][rows][:, columns])
