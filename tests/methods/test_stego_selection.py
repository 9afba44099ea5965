from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_stego import CLASSES, ROWS, make_store, make_table

from ovseg_ray.data import list_splits, open_dataset
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.clusters import ClusterCounts
from ovseg_ray.methods.stego import Stego, StegoConfig
from ovseg_ray.methods.stego.selection import agreement, matched_miou, pair_counts


def test_places_are_paired_by_their_features() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 8, 4, 4, generator=generator)
    order = torch.randperm(16, generator=generator)
    moved = features.flatten(2)[:, :, order].view_as(features) * 3  # the same places elsewhere, and longer
    clusters = torch.randint(5, (3, 4, 4), generator=generator)
    there = clusters.flatten(1)[:, order].view_as(clusters)
    counts = pair_counts((features, moved), (clusters, there), 5)
    assert torch.equal(counts, torch.diag(torch.bincount(clusters.flatten(), minlength=5)))


def test_agreement_wants_clusters_that_tell_apart_and_say_the_same() -> None:
    perfect = torch.eye(4, dtype=torch.int64) * 25
    assert agreement(perfect) == pytest.approx(1.0)
    assert agreement(torch.full((4, 4), 10)) == pytest.approx(0.0)
    lumped = torch.zeros(4, 4, dtype=torch.int64)
    lumped[0, 0] = 100
    assert agreement(lumped) == 0.0
    half = torch.zeros(4, 4, dtype=torch.int64)
    half[0, 0] = half[1, 1] = 50
    assert agreement(half) == pytest.approx(0.5)
    assert agreement(torch.zeros(4, 4, dtype=torch.int64)) == 0.0


def test_the_labelled_criterion_is_that_of_evaluation() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 100, (5, 5))
    assert matched_miou(counts) == pytest.approx(ClusterCounts(5, counts=counts).matched().miou)


@pytest.mark.parametrize("masks", [True, False])
def test_training_keeps_the_best_by_the_chosen_criterion(tmp_path: Path, masks: bool) -> None:
    store = make_store(tmp_path / "store", masks=masks)
    assert list_splits(store.path) == ["train", "val"]
    table = make_table(tmp_path / "near.parquet", store.info.features)
    config = StegoConfig(features=str(store.path), neighbours=str(table), width=6)
    dataset, transform = open_dataset(store.path, "val"), Stego.transform(config, training=False)
    examples = [transform(dataset.decoded(row), 0, np.random.default_rng(row)) for row in range(ROWS)]
    batches = [Stego.collate(examples[:3]), Stego.collate(examples[3:])]
    torch.manual_seed(0)
    method = Stego(config).eval()
    with torch.inference_mode():
        found = method.validation_metrics(batches)
        assert set(found) == {"agreement", "score", *(["matched_miou"] if masks else [])}
        assert found["score"] == found["agreement"]
        assert 0 <= found["agreement"] <= 1
        method.config = config.model_copy(update={"selection": "labels"})
        if masks:
            assert method.validation_metrics(batches)["score"] == found["matched_miou"] > 1 / CLASSES**2
        else:
            with pytest.raises(UserError, match="no masks"):
                method.validation_metrics(batches)


def test_without_a_table_images_are_compared_with_each_other(tmp_path: Path) -> None:
    config = StegoConfig(features=str(make_store(tmp_path / "store").path), neighbours=None, width=6)
    dataset, transform = open_dataset(tmp_path / "store", "val"), Stego.transform(config, training=False)
    batch = Stego.collate([transform(dataset.decoded(row), 0, np.random.default_rng(row)) for row in range(ROWS)])
    method = Stego(config).eval()
    features = batch["features"]
    with torch.inference_mode():
        clusters = method.cluster_probe.cosines(method.head(features)).argmax(1)
        pairs = pair_counts((features, features.roll(1, 0)), (clusters, clusters.roll(1, 0)), config.clusters)
        found = method.validation_metrics([batch])["agreement"]
        assert found == pytest.approx(agreement(pairs))
        own = torch.diag(torch.bincount(clusters.flatten(), minlength=config.clusters))
        assert found < agreement(own)  # an image agrees with itself whatever its clusters are
