"""Names for clusters: what a CLIP model sees in their regions, so that any vocabulary can be asked of them.

A region is what one picture shows of one cluster. It is cut out, what does not belong to it blanked with the picture's
mean colour, and embedded by CLIP's image tower. A cluster's vector is the mean over its regions, weighed by area.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ray.errors import UserError
from ovseg_ray.methods.clip.image_encoder import Embed
from ovseg_ray.methods.stego.model import Stego

LEAST_SHARE = 0.01  # of a picture: smaller regions show little
MARGIN = 0.1  # of a region's sides, kept around it


@dataclass(frozen=True)
class Names:
    """What regions look like.

    Attributes:
        vectors: (K, D) float32; zero for a cluster that no picture shows.
        regions: (K,) int64, how many each was made from.
    """

    vectors: Tensor
    regions: Tensor


def cluster_names(
    model: Stego, pictures: Iterable[np.ndarray], embed: Embed, progress: Callable[[int], None] | None = None
) -> Names:
    """Vectors of clusters in the space of a CLIP model.

    The mean over all regions is taken off every vector: what all of them share favours some labels everywhere.

    Args:
        model: in eval mode.
        pictures: (H, W, 3) uint8 each; a few hundred do.
        embed: the image tower.
        progress: told the number of pictures done.

    Raises:
        UserError: no pictures.
    """
    clusters = len(model.cluster_probe.clusters)
    sums: Tensor | None = None
    weights, counts = torch.zeros(clusters), torch.zeros(clusters, dtype=torch.int64)
    for done, picture in enumerate(pictures, start=1):
        found = regions(picture, cluster_map(model, picture), clusters)
        if found:
            vectors = embed([cut for _, _, cut in found])
            sums = torch.zeros(clusters, vectors.shape[1]) if sums is None else sums
            for vector, (cluster, share, _) in zip(vectors, found, strict=True):
                sums[cluster] += share * vector
                weights[cluster] += share
                counts[cluster] += 1
        if progress is not None:
            progress(done)
    if sums is None:
        raise UserError("no pictures to name clusters by; give a data set with images")
    seen = counts > 0
    means = F.normalize(sums[seen], dim=1)
    vectors = torch.zeros_like(sums)
    vectors[seen] = F.normalize(means - means.mean(0), dim=1) if int(seen.sum()) > 1 else means
    return Names(vectors, counts)


@torch.inference_mode()
def cluster_map(model: Stego, picture: np.ndarray) -> np.ndarray:
    """(H, W) int64 cluster of every pixel of a picture."""
    device = next(model.parameters()).device
    encoding = model.encode(model.preprocess(picture)[None].to(device))
    size = (picture.shape[0], picture.shape[1])
    found: np.ndarray = model.cluster_scores(encoding, size)[0].argmax(0).cpu().numpy()
    return found


def regions(picture: np.ndarray, clusters: np.ndarray, count: int) -> list[tuple[int, float, np.ndarray]]:
    """What a picture shows of each cluster.

    Args:
        picture: (H, W, 3) uint8.
        clusters: (H, W) cluster of every pixel, 0..count - 1.
        count: K.

    Returns:
        (cluster, share of the picture, picture of the region), of those that are large enough.
    """
    height, width = clusters.shape
    pixels = np.bincount(clusters.reshape(-1), minlength=count)
    blank = picture.reshape(-1, 3).mean(0).round().astype(np.uint8)
    found = []
    for cluster in np.flatnonzero(pixels >= max(LEAST_SHARE * clusters.size, 1)):
        inside = clusters == cluster
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        extra = [round(MARGIN * (line[-1] + 1 - line[0])) for line in (rows, columns)]
        top, bottom = max(rows[0] - extra[0], 0), min(rows[-1] + 1 + extra[0], height)
        left, right = max(columns[0] - extra[1], 0), min(columns[-1] + 1 + extra[1], width)
        box = slice(top, bottom), slice(left, right)
        cut = np.where(inside[box][..., None], picture[box], blank)
        found.append((int(cluster), float(pixels[cluster] / clusters.size), cut))
    return found
