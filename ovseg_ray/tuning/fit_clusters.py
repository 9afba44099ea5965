"""What matters at inference alone of a model that tells clusters apart, fitted on codes that are computed once.

- The number of clusters: codes do not depend on it, so spherical k-means puts other numbers of centroids on them. What
  is compared is the mIoU of clusters matched to classes one to one, at the places at which the method makes codes.
- The weights of the CRF: its lattices follow from the picture alone and are built once. The mean-field iterations must
  run again for each pair of weights, and they are most of the work: this cannot be much cheaper than all of it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.data.squares import SquareConfig, square
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.clusters import ClusterCounts
from ovseg_ray.evaluation.confusion import IGNORE
from ovseg_ray.methods.base import Encoding
from ovseg_ray.methods.stego import Stego
from ovseg_ray.methods.stego.crf import CrfConfig, DenseCrf
from ovseg_ray.methods.stego.kmeans import spherical_kmeans
from ovseg_ray.training.validation import spread

_Part = TypeVar("_Part")
MOST_PLACES = 10_000  # that k-means looks at
SHARES = (1.0, 1.25, 1.5, 2.0)  # clusters tried, times the classes
WEIGHTS = (0.0, 0.5, 1.0, 2.0)  # of the CRF tried, times those of its configuration


@dataclass(frozen=True)
class CachedCodes:
    """What the network makes of some images, with their truth.

    Attributes:
        encodings: of one image each.
        pictures: (S, S, 3) uint8 squares.
        truths: (S, S) int64 classes, IGNORE where there is none.
        places: (h·w, classes) int64 pixels of each class at each place, one table an image.
    """

    encodings: tuple[Encoding, ...]
    pictures: tuple[np.ndarray, ...]
    truths: tuple[np.ndarray, ...]
    places: tuple[Tensor, ...]

    @property
    def classes(self) -> int:
        """Of the data set."""
        return self.places[0].shape[1]

    def some(self, images: int) -> CachedCodes:
        """Those images alone, evenly spread."""
        rows = spread(len(self.encodings), images)

        def chosen(part: tuple[_Part, ...]) -> tuple[_Part, ...]:
            return tuple(part[row] for row in rows)

        return CachedCodes(chosen(self.encodings), chosen(self.pictures), chosen(self.truths), chosen(self.places))

    def codes(self) -> Tensor:
        """(N, D) codes of all places, image by image."""
        return torch.cat([encoding.tensors["codes"][0].flatten(1).T for encoding in self.encodings])


def cache_codes(
    method: Stego,
    dataset: DataSet,
    rows: Sequence[int],
    squares: SquareConfig,
    progress: Callable[[int], None] = lambda done: None,
) -> CachedCodes:
    """Run the network once over the squares that evaluation scores.

    Args:
        method: in eval mode.
        dataset: with masks.
        rows: of the data set.
        squares: their size and resampling.
        progress: told the number of images done.

    Raises:
        UserError: an unreadable image, no masks, or no labelled pixel.
    """
    classes = len(dataset.require_masks())
    device = next(method.parameters()).device
    encodings, pictures, truths, places = [], [], [], []
    for done, row in enumerate(rows, 1):
        sample = dataset.decoded(row)
        if sample.mask is None:
            raise UserError(f"image '{sample.image_id}': has no mask; clusters are fitted on images with masks")
        picture = square(sample.image, squares.size, squares.resampling)
        target = square(sample.mask, squares.size, "nearest")
        truth = target.astype(np.int64)
        truth[target == sample.ignore_index] = IGNORE
        with torch.inference_mode():
            found = method.encode(method.preprocess(picture)[None].to(device))
        encoding = Encoding({"codes": found.tensors["codes"].cpu()}, found.size)
        encodings.append(encoding)
        pictures.append(picture)
        truths.append(truth)
        places.append(_classes_at_places(truth, encoding, method.backbone.stride, classes))
        progress(done)
    if not sum(int(table.sum()) for table in places):
        raise UserError(f"{dataset.path} (split {dataset.split}): no labelled pixel in the images to fit on")
    return CachedCodes(tuple(encodings), tuple(pictures), tuple(truths), tuple(places))


def _classes_at_places(truth: np.ndarray, encoding: Encoding, stride: int, classes: int) -> Tensor:
    shape = encoding.tensors["codes"].shape[2:]
    rows, columns = (
        np.minimum(((np.arange(out) + 0.5) * size / out / stride).astype(np.int64), count - 1)
        for out, size, count in zip(truth.shape, encoding.size, shape, strict=True)
    )
    place = rows[:, None] * shape[1] + columns
    known = (truth >= 0) & (truth < classes)
    cells = np.bincount(place[known] * classes + truth[known], minlength=shape[0] * shape[1] * classes)
    return torch.from_numpy(cells).view(-1, classes)


@dataclass(frozen=True)
class Centroids:
    """Centroids and what they are worth.

    Attributes:
        vectors: (K, D) float32.
        learned: whether they are those of training.
        miou: of clusters matched to classes, at the places of codes.
    """

    vectors: Tensor
    learned: bool
    miou: float


def try_clusters(
    cached: CachedCodes,
    learned: Tensor,
    counts: Sequence[int],
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Centroids]:
    """The centroids of training, and those of k-means for each number.

    Args:
        cached: of some images.
        learned: (K, D) of training.
        counts: numbers of clusters; fewer than classes cannot be matched and are left out, as are more than places.
        seed: of k-means and of which places it looks at.
        progress: told how many of `counts` are done.
    """
    codes = cached.codes()
    order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(seed))[:MOST_PLACES]

    def worth(vectors: Tensor, own: bool = False) -> Centroids:
        return Centroids(vectors, own, matched_at_places(cached, codes, vectors))

    found = [worth(learned.detach().cpu(), own=True)] if len(learned) >= cached.classes else []
    for done, count in enumerate(counts, 1):
        if cached.classes <= count <= len(order):
            found.append(worth(spherical_kmeans(codes[order], count, seed).centroids))
        progress(done)
    return found


def matched_at_places(cached: CachedCodes, codes: Tensor, centroids: Tensor) -> float:
    """mIoU of clusters matched to classes one to one, every pixel counted at its place."""
    directions = torch.nn.functional.normalize(centroids, dim=1)
    nearest = torch.cat([(part @ directions.T).argmax(1) for part in codes.split(1 << 16)])
    table = torch.zeros(len(centroids), cached.classes, dtype=torch.int64)
    table.index_add_(0, nearest, torch.cat(cached.places))
    return ClusterCounts(cached.classes, len(centroids) - cached.classes, counts=table.numpy()).matched().miou


def try_crf(
    method: Stego,
    cached: CachedCodes,
    config: CrfConfig,
    weights: Sequence[tuple[float, float]],
    progress: Callable[[int], None] = lambda done: None,
) -> list[float]:
    """mIoU of clusters refined by the CRF and matched to classes, at every pixel of the squares, for each of `weights`.

    Args:
        method: whose clusters they are.
        cached: of some images.
        config: of the CRF, but for its weights.
        weights: of smoothness and of appearance.
        progress: told the number of images done.
    """
    device, extra = next(method.parameters()).device, len(method.cluster_probe.clusters) - cached.classes
    counts = [ClusterCounts(cached.classes, extra) for _ in weights]
    images = zip(cached.encodings, cached.pictures, cached.truths, strict=True)
    for done, (encoding, picture, truth) in enumerate(images, 1):
        with torch.inference_mode():
            moved = Encoding({"codes": encoding.tensors["codes"].to(device)}, encoding.size)
            shares = method.cluster_scores(moved, (truth.shape[0], truth.shape[1]))[0].exp().cpu().numpy()
        crf = DenseCrf(method.crf_picture(picture), config)
        for pair, counter in zip(weights, counts, strict=True):
            counter.update(crf.weighted(*pair).marginals(shares).argmax(0), truth)
        progress(done)
    return [counter.matched().miou for counter in counts]


def weights_around(config: CrfConfig) -> list[tuple[float, float]]:
    """Pairs of weights to try, those of `config` first."""
    factors = sorted(product(WEIGHTS, WEIGHTS), key=lambda pair: pair != (1.0, 1.0))
    pairs = ((config.smoothness_weight * first, config.appearance_weight * second) for first, second in factors)
    return list(dict.fromkeys(pairs))  # a weight of 0 has no multiples: the same pair once
