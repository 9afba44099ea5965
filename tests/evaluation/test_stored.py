"""Clusters scored from batches of stored features, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ovseg_ray.evaluation.stored import StoredClusterModel, count_stored


class Given:
    """Predictions that come with the batch."""

    num_clusters, num_classes = 3, 2

    def stored_predictions(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"clusters": batch["clusters"], "linear": batch["linear"]}


def test_clusters_are_matched_on_all_batches_together() -> None:
    truth = torch.tensor([[[0, 0, 0, 1], [1, 1, -1, -1]]])
    clusters = torch.tensor([[[2, 2, 0, 0], [0, 0, 1, 1]]])
    model, second = Given(), {"target": torch.ones(1, 1, 2).long(), "clusters": torch.ones(1, 1, 2).long()}
    assert isinstance(model, StoredClusterModel)
    batches = [
        {"target": truth, "clusters": clusters, "linear": truth.clamp_min(0)},
        {**second, "linear": torch.zeros(1, 1, 2).long()},
    ]
    found = count_stored(model, batches)
    # cluster 2 is class 0 (2 of 3 pixels), cluster 0 is class 1 (3 of 5, and one of class 0), cluster 1 is left over
    assert found["miou"] == pytest.approx((2 / 3 + 3 / 6) / 2)
    assert found["pixel_accuracy"] == pytest.approx(5 / 8)
    assert found["linear_accuracy"] == pytest.approx(6 / 8)
    assert found["linear_miou"] == pytest.approx((3 / 5 + 3 / 5) / 2)
