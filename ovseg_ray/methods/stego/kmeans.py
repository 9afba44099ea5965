"""Spherical k-means: what the cluster probe is measured against, and where shifts on new features start from."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_ITERATIONS = 50


class Clusters(NamedTuple):
    """`centroids` (K, D) of length 1, and the mean cosine of a vector with its nearest one."""

    centroids: Tensor
    cosine: float


def spherical_kmeans(vectors: Tensor, clusters: int, seed: int = 0, iterations: int = MOST_ITERATIONS) -> Clusters:
    """Cluster by direction (Dhillon & Modha 2001), begun by k-means++ (Arthur & Vassilvitskii 2007) on 1 - cosine.

    A cluster that loses all its vectors takes the one that lies farthest from its own centroid.

    Args:
        vectors: (N, D) float32 of any length; N of K or more.
        clusters: K.
        seed: of the beginning.
        iterations: at most; it ends earlier where no vector changes its cluster.
    """
    vectors = F.normalize(vectors.float(), dim=1)
    centroids = _begin(vectors, clusters, torch.Generator().manual_seed(seed))
    assigned = torch.full((len(vectors),), -1)
    for _ in range(iterations):
        best, nearest = (vectors @ centroids.T).max(1)
        if torch.equal(nearest, assigned):
            break
        assigned = nearest
        sums = torch.zeros_like(centroids).index_add_(0, assigned, vectors)
        empty = torch.bincount(assigned, minlength=clusters) == 0
        sums[empty] = vectors[best.argsort()[: int(empty.sum())]]
        centroids = F.normalize(sums, dim=1)
    return Clusters(centroids, float((vectors @ centroids.T).amax(1).mean()))


def _begin(vectors: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    chosen = [int(torch.randint(len(vectors), (1,), generator=generator))]
    far = torch.full((len(vectors),), 2.0)
    while len(chosen) < clusters:
        far = torch.minimum(far, (1 - vectors @ vectors[chosen[-1]]).clamp_min(0))
        # where all vectors are taken any one does
        weights = far if far.sum() > 0 else torch.ones_like(far)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return vectors[chosen]
