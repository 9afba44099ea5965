"""The CRF against a compiled implementation of the same lattice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stego_golden import GOLDEN

from ovseg_ray.methods.stego.crf import CrfConfig, DenseCrf, image_of, refine
from ovseg_ray.methods.stego.permutohedral import Lattice

ARRAYS = np.load(GOLDEN / "crf_marginals.npz")


@pytest.mark.parametrize(("name", "iterations"), [("one", 1), ("paper", 10)])
def test_marginals(name: str, iterations: int) -> None:
    found = DenseCrf(ARRAYS["image"], CrfConfig(iterations=iterations)).marginals(ARRAYS["probabilities"])
    np.testing.assert_allclose(found, ARRAYS[name], atol=2e-4)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


def test_scores_are_upsampled_to_the_image() -> None:
    scores = torch.from_numpy(ARRAYS["probabilities"]).log()
    np.testing.assert_allclose(refine(ARRAYS["image"], scores), ARRAYS["paper"], atol=2e-4)
    assert refine(ARRAYS["image"], scores[:, ::2, ::2]).shape == scores.shape


def test_no_iteration_changes_nothing() -> None:
    found = DenseCrf(ARRAYS["image"], CrfConfig(iterations=0)).marginals(ARRAYS["probabilities"])
    np.testing.assert_allclose(found, ARRAYS["probabilities"].clip(1e-5), atol=1e-4)


def test_a_kernel_without_weight_is_not_there() -> None:
    crf = DenseCrf(ARRAYS["image"])
    nothing = crf.weighted(0.0, 0.0).marginals(ARRAYS["probabilities"])
    np.testing.assert_allclose(nothing, ARRAYS["probabilities"].clip(1e-5), atol=1e-4)
    alone, little = (crf.weighted(3.0, weight).marginals(ARRAYS["probabilities"]) for weight in (0.0, 1e-6))
    np.testing.assert_allclose(alone, little, atol=1e-4)
    assert np.abs(alone - nothing).max() > 0.01


def test_lattice_is_close_to_a_gaussian() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 4, (300, 2)).astype(np.float32)
    values = rng.random((300, 3)).astype(np.float32)
    kernel = np.exp(-0.5 * ((points[:, None] - points[None]) ** 2).sum(-1))
    lattice = Lattice(points)
    blurred, total = lattice.filter(torch.from_numpy(values)), lattice.filter(torch.ones(300, 1))
    np.testing.assert_allclose(blurred / total, kernel @ values / kernel.sum(1, keepdims=True), atol=0.05)


def test_picture_of_an_input() -> None:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    picture = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, 16, 16)
    inputs = (picture / 255 - mean[:, None, None]) / std[:, None, None]
    expected = picture.permute(1, 2, 0).numpy()
    assert (image_of(inputs, mean, std) == expected).all()
    cut = image_of(inputs, mean, std, reference=True).astype(int) - expected
    assert set(np.unique(cut)) == {-1, 0}
