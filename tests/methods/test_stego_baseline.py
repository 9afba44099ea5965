from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_stego import make_store

from ovseg_ray.errors import UserError
from ovseg_ray.methods.export import describe_model, load_model
from ovseg_ray.methods.stego import Stego, StegoConfig
from ovseg_ray.methods.stego.baseline import kmeans_run


def test_kmeans_becomes_a_model_of_the_features_themselves(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    like = StegoConfig(features=str(store.path), width=6, evaluation_size=64)
    run = kmeans_run(like, tmp_path / "kmeans", seed=1)
    model = load_model(run.model)
    assert isinstance(model, Stego)
    assert (model.config.projection, model.config.evaluation_size) == ("none", 64)
    places = torch.cat([torch.from_numpy(store.features(row)).flatten(1).T for row in range(store.info.rows)])
    cosine = F.cosine_similarity(places[:, None], model.cluster_probe.clusters[None], dim=2).amax(1).mean()
    assert describe_model(run.model).provenance["cosine"] == pytest.approx(float(cosine), abs=1e-4)
    assert cosine > 0.4  # noise of 8 channels, 3 clusters
    written = (run.model / "model.json").stat().st_mtime_ns
    assert kmeans_run(like, tmp_path / "kmeans", seed=1).path == run.path
    assert (run.model / "model.json").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="seed differs"):
        kmeans_run(like, tmp_path / "kmeans", seed=2)
    with pytest.raises(UserError, match=r"model\.features"):
        kmeans_run(StegoConfig(), tmp_path / "other")
