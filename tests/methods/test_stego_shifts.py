from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_stego import make_store, make_table

from ovseg_ray.methods.stego import StegoConfig
from ovseg_ray.methods.stego.correspondence import CorrespondenceConfig, correlation, normalised
from ovseg_ray.methods.stego.kmeans import spherical_kmeans
from ovseg_ray.methods.stego.shifts import otsu, spread_maps, suggest_shifts
from ovseg_ray.training.config import resolve_config

CLASSES = 4


def pictures(images: int = 32, level: float = 0.0, noise: float = 0.4) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 16, 6, 6) maps of two classes each, of four, and (B, 6, 6) which."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(16)[:CLASSES] * 2 + level
    classes = torch.randint(CLASSES, (images, 2, 1, 1), generator=generator)
    split = torch.randint(1, 6, (images, 1, 1), generator=generator)
    labels = torch.where(torch.arange(6)[None, :, None] < split, classes[:, 0], classes[:, 1]).expand(-1, -1, 6)
    maps = centres[labels].movedim(-1, 1)
    return maps + noise * torch.randn(maps.shape, generator=generator), labels


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_shift_parts_pairs_of_one_class_from_others(level: float) -> None:
    features, labels = pictures(64, level, noise=0.2)
    shift = suggest_shifts(features.split(20), CorrespondenceConfig(pointwise=False))["self_pairs"]
    for other in (0, 1):  # within images, and between them
        unit = normalised(features)
        same = labels[:, :, :, None, None] == labels.roll(other, 0)[:, None, None]
        assert ((correlation(unit, unit.roll(other, 0)) > shift) == same).float().mean() > 0.95


def test_it_follows_the_scale_of_features() -> None:
    config = CorrespondenceConfig(pointwise=False)
    low, high = (suggest_shifts([pictures(level=level)[0]], config) for level in (0.0, 1.0))
    assert high["self_pairs"] > low["self_pairs"] + 0.1


def test_random_pairs_must_be_more_alike_than_neighbours() -> None:
    shifts = suggest_shifts([pictures()[0]], CorrespondenceConfig())
    assert shifts["neighbours"] == shifts["self_pairs"] < 1
    assert shifts["random"] == pytest.approx((shifts["self_pairs"] + 1) / 2, abs=1e-3)


def test_the_same_every_time() -> None:
    features = pictures()[0]
    first, second = (suggest_shifts([features], CorrespondenceConfig()) for _ in range(2))
    assert first == second


def test_the_threshold_lies_between_two_peaks() -> None:
    counts = torch.zeros(100)
    counts[10:15], counts[80:82] = 50, 7
    assert -0.7 < otsu(counts) < 0.6
    assert otsu(counts) == pytest.approx((-0.7 + 0.6) / 2, abs=0.01)


def test_null_shifts_are_told_from_the_store(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    table = make_table(tmp_path / "near.parquet", store.info.features)
    model = {"features": str(store.path), "neighbours": str(table), "width": 6}
    given = {"neighbours": {"weight": 0.5, "shift": 0.25}}
    config = resolve_config("stego", None, {"model": {**model, "correspondence": given}})
    pairs = config.model["correspondence"]
    expected = suggest_shifts(spread_maps(store), CorrespondenceConfig())
    assert (pairs["neighbours"]["shift"], pairs["neighbours"]["weight"]) == (0.25, 0.5)
    assert pairs["self_pairs"]["shift"] == expected["self_pairs"]
    assert pairs["random"]["shift"] == expected["random"]
    # once resolved, the store may be gone
    again = StegoConfig.model_validate(config.model | {"features": "/nowhere"})
    assert again.correspondence.self_pairs.shift == expected["self_pairs"]


def test_published_shifts_need_no_store() -> None:
    assert resolve_config("stego", "stego_potsdam_vits", {}).model["correspondence"]["random"]["shift"] == 0.46


def test_kmeans_finds_directions_whatever_the_lengths() -> None:
    features, labels = pictures(noise=0.2)
    vectors = features.movedim(1, -1).flatten(0, 2)
    lengths = torch.rand(len(vectors), 1, generator=torch.Generator().manual_seed(1)) + 0.5
    found = spherical_kmeans(vectors * lengths, CLASSES)
    nearest = (F.normalize(vectors, dim=1) @ found.centroids.T).argmax(1)
    for cluster in range(CLASSES):
        assert len(labels.flatten()[nearest == cluster].unique()) == 1
    torch.testing.assert_close(found.centroids.norm(dim=1), torch.ones(CLASSES))
    assert found.cosine == pytest.approx(
        float((F.normalize(vectors, dim=1) @ found.centroids.T).amax(1).mean()), abs=1e-6
    )
    assert torch.equal(found.centroids, spherical_kmeans(vectors * lengths, CLASSES).centroids)


def test_kmeans_of_vectors_that_are_all_the_same() -> None:
    found = spherical_kmeans(torch.ones(5, 3), 3)
    assert found.centroids.isfinite().all()
    assert found.cosine == pytest.approx(1.0)
