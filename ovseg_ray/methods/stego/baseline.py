"""k-means on the same features as STEGO, as a model of the same kind: what learning must beat."""

from __future__ import annotations

from pathlib import Path

import torch

from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.store import FeatureStore
from ovseg_ray.methods.export import save_model
from ovseg_ray.methods.stego.config import StegoConfig
from ovseg_ray.methods.stego.kmeans import spherical_kmeans
from ovseg_ray.methods.stego.model import Stego
from ovseg_ray.run_directory import RunDirectory

MOST_PLACES = 40_000
BEGINNINGS = 3


def kmeans_run(like: StegoConfig, out: Path, seed: int = 0) -> RunDirectory:
    """Write a run whose codes are the features themselves and whose clusters are those of spherical k-means.

    The best of three beginnings by the mean cosine of a place with its centroid; no label takes part.

    Args:
        like: of the run to compare with: features, clusters and sizes are its own.
        out: run directory; one that is finished is returned as it is.
        seed: of the beginnings, and of which places are looked at.

    Raises:
        UserError: no feature store, or another run in `out`.
    """
    if like.features is None:
        raise UserError("model.features: k-means reads a feature store; give one")
    store = FeatureStore.open(like.features)
    config = like.model_copy(update={"projection": "none"})
    described = {"method": "stego", "model": config.model_dump(mode="json"), "kmeans": {"seed": seed}}
    run = RunDirectory.create(Path(out).absolute(), described, resume=True)
    if run.finished:
        return run
    method = Stego(config)
    method.initialise()
    places = _places(store, seed)
    known = [
        spherical_kmeans(places, config.clusters + config.extra_clusters, seed * BEGINNINGS + start)
        for start in range(BEGINNINGS)
    ]
    best = max(known, key=lambda found: found.cosine)
    with torch.no_grad():
        method.cluster_probe.clusters.copy_(best.centroids)
    provenance = {"features": store.info.features, "seed": seed, "cosine": best.cosine}
    save_model(method.eval(), run.model, vocabularies=[], provenance=provenance)
    return run


def _places(store: FeatureStore, seed: int) -> torch.Tensor:
    """(n, C) features of places, the same number from every image."""
    rows, columns = store.info.grid
    each = max(1, min(rows * columns, MOST_PLACES // store.info.rows))
    generator = torch.Generator().manual_seed(seed)
    images = torch.randperm(store.info.rows, generator=generator)[:MOST_PLACES].tolist()
    found = []
    for image in images:
        chosen = torch.randperm(rows * columns, generator=generator)[:each]
        found.append(torch.from_numpy(store.features(image)).flatten(1).T[chosen])
    return torch.cat(found)
