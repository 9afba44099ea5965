from __future__ import annotations

import pytest
import torch

from ovseg_ray.methods.stego.correspondence import CorrespondenceConfig, correlation, normalised
from ovseg_ray.methods.stego.shifts import suggest_shifts


def batch(images: int = 8, level: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(images, 12, 6, 6, generator=generator) + level
    return features, features + 0.5 * torch.randn(features.shape, generator=generator)


def test_the_wanted_share_of_random_pairs_lies_above() -> None:
    config = CorrespondenceConfig(points=6, pointwise=False)
    features, near = batch(64)
    shift = suggest_shifts([(features, near)], config, {"self_pairs": 0.25, "neighbours": 0.2, "random": 0.1})["random"]
    cosines = correlation(normalised(features[:32]), normalised(features[32:]))
    assert (cosines > shift).float().mean() == pytest.approx(0.1, abs=0.05)


def test_shifts_follow_the_scale_of_features() -> None:
    config = CorrespondenceConfig(pointwise=False)
    low, high = (suggest_shifts([batch(level=level)], config) for level in (0.0, 2.0))
    assert all(high[name] > low[name] + 0.1 for name in ("neighbours", "random"))


def test_the_same_every_time() -> None:
    assert suggest_shifts([batch()], CorrespondenceConfig()) == suggest_shifts([batch()], CorrespondenceConfig())
