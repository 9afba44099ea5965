"""Parameters that matter at inference alone, fitted on scores that are computed once.

Running the network again for every value would give the same numbers: what depends on the value is applied to the
network's cached output. Two are fitted for a model that answers labels:

- temperature: scores are cosines over it, so another temperature scales them. It changes no label, but what the
  confidence means: fitted by the likelihood of the true labels (Guo et al., ICML 2017, section 4.2).
- threshold: pixels whose confidence lies below it are left without a label; from one histogram, every threshold's
  share of pixels and how many of them are right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.confusion import IGNORE
from ovseg_ray.evaluation.scoring import LabelSpace
from ovseg_ray.methods.base import Method

BINS = 15  # of the expected calibration error, as in Guo et al.
AT_ONCE = 1 << 16  # pixels whose scores are looked at together
FACTORS = (0.05, 20.0)  # searched, times the temperature of training


@dataclass(frozen=True)
class CachedScores:
    """Scores of labelled pixels, at the resolution at which the method makes them.

    No temperature changes which label is best, so what is found out about that is kept, too.

    Attributes:
        margins: (P, N) float32, scores less the best of their pixel, at the temperature of training.
        right: (P,) bool, whether the best label is the true one.
        truth: (P,) int64 label of each.
    """

    margins: Tensor
    right: Tensor
    truth: Tensor

    @classmethod
    def of(cls, scores: Tensor, truth: Tensor) -> CachedScores:
        """From (P, N) scores, which are overwritten."""
        best = scores.max(1, keepdim=True)
        return cls(scores.sub_(best.values), best.indices[:, 0] == truth, truth)

    def likelihoods(self, factor: float) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        """Part by part: (n,) confidence, (n,) minus log likelihood of the true label, (n,) whether the best is right.

        Args:
            factor: on the temperature.
        """
        parts = (tensor.split(AT_ONCE) for tensor in (self.margins, self.right, self.truth))
        for margins, right, truth in zip(*parts, strict=True):
            scaled = margins / factor
            true = scaled.gather(1, truth[:, None])[:, 0]
            total = scaled.exp_().sum(1)  # of the softmax whose best label has 1
            yield total.reciprocal(), total.log() - true, right.numpy()


@dataclass(frozen=True)
class Calibration:
    """How well confidence tells what is right.

    Attributes:
        nll: mean negative log likelihood of the true label, nats.
        ece: expected calibration error over 15 bins, 0..1.
        accuracy: share of pixels that are right.
    """

    nll: float
    ece: float
    accuracy: float


def cache_scores(
    method: Method,
    dataset: DataSet,
    rows: Sequence[int],
    space: LabelSpace,
    *,
    pixels: int = 500_000,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> CachedScores:
    """Run the network once over some images and keep the scores of labelled pixels.

    Args:
        method: in eval mode; it segments.
        dataset: with masks.
        rows: of the data set.
        space: labels to score.
        pixels: kept at most, the same number of each image, drawn at random.
        seed: of that draw.
        progress: told the number of images done.

    Raises:
        UserError: an unreadable image, no masks, or no labelled pixel.
    """
    rng = np.random.default_rng(seed)
    share = max(pixels // max(len(rows), 1), 1)
    kept: list[Tensor] = []
    truths: list[Tensor] = []
    for done, row in enumerate(rows, 1):
        scores, truth = _scored(method, dataset, row, space)
        places = np.flatnonzero(truth != IGNORE)
        places = np.sort(rng.choice(places, share, replace=False)) if len(places) > share else places
        kept.append(scores[:, torch.from_numpy(places)].T.contiguous())
        truths.append(torch.from_numpy(truth[places]))
        progress(done)
    labels = torch.cat(truths)
    if not len(labels):
        raise UserError(f"{dataset.path} (split {dataset.split}): no labelled pixel in the images to fit on")
    return CachedScores.of(torch.cat(kept), labels)


def _scored(method: Method, dataset: DataSet, row: int, space: LabelSpace) -> tuple[Tensor, np.ndarray]:
    """(N, h·w) scores of an image at the method's own resolution, and (h·w,) truth at the nearest pixels."""
    sample = dataset.decoded(row)
    truth = space.truth(sample, len(dataset.require_masks()))
    device = next(method.parameters()).device
    with torch.inference_mode():
        encoding = method.encode(method.preprocess(sample.image).unsqueeze(0).to(device))
        scores = method.scores(encoding, space.text.to(device))[0].float().cpu()
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * size / n).astype(np.int64), size - 1)
        for n, size in zip(scores.shape[1:], truth.shape, strict=True)
    )
    return scores.flatten(1), truth[rows[:, None], columns].reshape(-1)


def calibration(cached: CachedScores, factor: float = 1.0) -> Calibration:
    """What the confidence is worth at `factor` times the temperature that the scores were made with."""
    nll, counts = 0.0, np.zeros((3, BINS))
    for confidence, loss, hit in cached.likelihoods(factor):
        nll += float(loss.sum())
        bins = np.minimum((confidence.numpy() * BINS).astype(np.int64), BINS - 1)
        for row, weights in enumerate((np.ones(len(hit)), hit, confidence.numpy())):
            counts[row] += np.bincount(bins, weights, BINS)
    total = len(cached.truth)
    right = float(counts[1].sum()) / total
    return Calibration(nll / total, float(np.abs(counts[1] - counts[2]).sum() / total), right)


def fit_temperature(cached: CachedScores) -> float:
    """The factor on the temperature under which the true labels are likeliest, by Brent's method on its logarithm."""

    def nll(log_factor: float) -> float:
        losses = (loss for _, loss, _ in cached.likelihoods(math.exp(log_factor)))
        return sum(float(loss.sum()) for loss in losses) / len(cached.truth)

    low, high = (math.log(factor) for factor in FACTORS)
    found = minimize_scalar(nll, bounds=(low, high), method="bounded", options={"xatol": 1e-3})
    return math.exp(float(found.x))


@dataclass(frozen=True)
class Threshold:
    """What leaving out unsure pixels does.

    Attributes:
        value: least confidence of a labelled pixel.
        kept: share of pixels that keep a label.
        accuracy: share of these that are right; NaN where none is left.
    """

    value: float
    kept: float
    accuracy: float


def thresholds(cached: CachedScores, values: Sequence[float], factor: float = 1.0) -> list[Threshold]:
    """For each threshold on the confidence, how many pixels stay and how many of them are right."""
    edges = np.asarray(values, np.float64)
    order = np.argsort(edges)
    passed = np.zeros((2, len(edges) + 1))  # pixels, and right ones, by how many thresholds they reach
    for confidence, _, hit in cached.likelihoods(factor):
        reached = np.searchsorted(edges[order], confidence.numpy(), "right")
        passed[0] += np.bincount(reached, minlength=len(edges) + 1)
        passed[1] += np.bincount(reached[hit], minlength=len(edges) + 1)
    kept, right = np.empty((2, len(edges)))
    kept[order], right[order] = passed[:, :0:-1].cumsum(1)[:, ::-1]
    total = len(cached.truth)
    return [
        Threshold(float(v), float(k / total), float(r / k) if k else math.nan)
        for v, k, r in zip(edges, kept, right, strict=True)
    ]
