from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ovseg_ray.embedding.config import EmbedConfig
from ovseg_ray.embedding.embedder import Embedder
from ovseg_ray.errors import UserError


def config(**values: Any) -> EmbedConfig:
    return EmbedConfig.model_validate({"squares": {"size": 64}, "encoder": {"stride": 8}, "batch_size": 4, **values})


def pictures(count: int = 6, size: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_vectors_are_the_normalised_mean_of_clean_maps() -> None:
    embedder = Embedder(config())
    vectors, maps = embedder(pictures())
    assert maps.shape == (6, 64, 8, 8)
    assert embedder.grid == (8, 8)
    mean = maps.mean((2, 3))
    np.testing.assert_allclose(vectors, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)
    inputs = (torch.from_numpy(pictures()).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.no_grad():
        np.testing.assert_allclose(maps, embedder.backbone(inputs), atol=1e-5)


def test_dropout_of_the_original_touches_vectors_alone_and_follows_the_seed() -> None:
    clean, maps = Embedder(config())(pictures())
    embedder = Embedder(config(vector_dropout=0.5))
    first, same_maps = embedder(pictures(), range(6))
    assert np.array_equal(maps, same_maps)
    assert 0.3 < (first == 0).mean() < 0.7
    part, _ = embedder(pictures()[4:], [4, 5])
    np.testing.assert_allclose(part, first[4:], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)
    assert not np.allclose(first, clean)


def test_without_weights_every_actor_has_the_same_backbone() -> None:
    assert np.array_equal(Embedder(config())(pictures())[0], Embedder(config())(pictures())[0])


@pytest.mark.parametrize(
    ("encoder", "shape"),
    [
        ({"name": "dino", "architecture": "vit_small_patch16"}, (384, 4, 4)),
        ({"name": "timm", "architecture": "vit_tiny_patch16_224"}, (192, 4, 4)),
        ({"name": "mobilenet_v2", "stride": 16}, (96, 4, 4)),
        ({"name": "small", "stride": 16}, (128, 4, 4)),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else None,
)
def test_backbones(encoder: dict[str, Any], shape: tuple[int, ...]) -> None:
    embedder = Embedder(config(encoder=encoder))
    assert embedder(pictures(1))[1].shape == (1, *shape)
    assert not any(p.requires_grad for p in embedder.backbone.parameters())
    assert not any(m.training for m in embedder.backbone.train().modules())


MISTAKES = [
    ({"name": "dino", "architecture": "vit_huge"}, "vit_small and vit_base"),
    ({"name": "timm", "architecture": "vit_nothing"}, "timm cannot build"),
    ({"name": "timm", "architecture": "resnet18"}, "timm|transformer"),
    ({"name": "timm", "architecture": "vit_tiny_patch16_224", "weights": "nowhere.safetensors"}, "nowhere"),
]


@pytest.mark.parametrize(("encoder", "said"), MISTAKES)
def test_mistakes_are_named(encoder: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Embedder(config(encoder=encoder))


def test_squares_must_fit_the_backbone() -> None:
    with pytest.raises(UserError, match="multiple of 14"):
        Embedder(config(encoder={"name": "timm", "architecture": "vit_small_patch14_dinov2"}))
    with pytest.raises(ValueError, match="such as 64"):
        config(squares={"size": 70})
