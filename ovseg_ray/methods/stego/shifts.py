"""Where shifts start on new features: the published ones belong to the features they were tuned on.

A shift is a threshold on feature cosines, whose scale differs between backbones and data sets. Within an image pairs of
points show one thing or two, and their cosines have two peaks; what parts these best (Otsu 1979: the threshold of the
greatest variance between both sides) is where "alike" begins, within an image and between neighbours. Random images
have to be more alike than that before they are pulled together: halfway from there to the same. Random pairs seldom
show the same thing, and with one threshold for all more of them attract than do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ovseg_ray.feature_store.store import FeatureStore
from ovseg_ray.methods.stego.correspondence import CorrespondenceConfig, centred, correlation, normalised, sample

POINTS = 7  # a side, of each image
BINS = 256
IMAGES, BATCH = 256, 32


def suggest_shifts(batches: Iterable[Tensor], config: CorrespondenceConfig) -> dict[str, float]:
    """Where to begin on these features, told from pairs of points within images.

    Args:
        batches: (B, C, h, w) features of images; a few hundred images do.
        config: whether cosines are centred.

    Returns:
        Of every kind of pairs, in -1..1, rounded to three places.
    """
    counts = torch.zeros(BINS)
    generator = torch.Generator().manual_seed(0)
    for features in batches:
        shape = (len(features), POINTS, POINTS, 2)
        own, other = (normalised(sample(features, torch.rand(shape, generator=generator) * 2 - 1)) for _ in range(2))
        cosines = correlation(own, other)
        counts += torch.histc(centred(cosines) if config.pointwise else cosines, BINS, -1, 1)
    alike = round(otsu(counts), 3)
    return {"self_pairs": alike, "neighbours": alike, "random": round((alike + 1) / 2, 3)}


def otsu(counts: Tensor) -> float:
    """The threshold of a histogram over -1..1 with the greatest variance between its two sides.

    Args:
        counts: (n,) of equal bins.
    """
    edges = torch.linspace(-1, 1, len(counts) + 1, dtype=torch.float64)
    share = counts.double() / counts.sum()
    below, mean = share.cumsum(0), (share * (edges[1:] + edges[:-1]) / 2).cumsum(0)
    between = (mean[-1] * below - mean).square() / (below * (1 - below)).clamp_min(1e-12)
    best = between[:-1] == between[:-1].max()
    return float(edges[1:-1][best].mean())  # between peaks that nothing lies between, the middle


def spread_maps(store: FeatureStore) -> Iterator[Tensor]:
    """Batches for `suggest_shifts`: images spread over a store.

    Raises:
        UserError: no dense maps.
    """
    count = min(IMAGES, store.info.rows)
    rows = [index * store.info.rows // count for index in range(count)]
    for start in range(0, count, BATCH):
        yield torch.stack([torch.from_numpy(store.features(row)) for row in rows[start : start + BATCH]])
