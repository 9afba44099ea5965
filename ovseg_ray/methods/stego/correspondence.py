"""The correspondence loss (Hamilton et al. 2022, section 3.2, equations 1 to 5): codes learn which features agree.

For a pair of images the cosine of codes is pushed up where the cosine of features lies above a threshold, and down
where it lies below. Maps are (B, C, H, W) float32; a correlation tensor (B, h1, w1, h2, w2) is indexed by the place in
the first image, then the place in the second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ovseg_ray.config import Config
from ovseg_ray.errors import UserError

SMALLEST_NORM = 1e-10
UPPER_CLAMP = 0.8  # of `stabilize`
NO_LOWER_CLAMP = -9999.0
KINDS = ("self_pairs", "neighbours", "random")


class PairConfig(Config):
    """One kind of image pairs in the loss."""

    weight: float = Field(ge=0, description="of the term")
    shift: float | None = Field(
        None, description="feature cosine below which codes are pushed apart; null: told from the features at hand"
    )

    @property
    def threshold(self) -> float:
        """The shift.

        Raises:
            UserError: it is to be told from features, and there were none.
        """
        if self.shift is None:
            raise UserError("model.correspondence: a shift is null and there are no features; give model.features")
        return self.shift


class CorrespondenceConfig(Config):
    """The correspondence loss. The default weights and shifts are those of CocoStuff with ViT-S."""

    self_pairs: PairConfig = PairConfig(weight=0.67, shift=0.08)
    neighbours: PairConfig = PairConfig(weight=0.25, shift=0.02)
    random: PairConfig = PairConfig(weight=0.63, shift=0.66)
    points: int = Field(11, ge=1, description="points a side drawn from each image")
    negatives: int = Field(5, ge=1, description="random images that each image is compared with")
    weight: float = Field(1.0, ge=0, description="of the whole loss")
    pointwise: bool = Field(True, description="centre the feature cosines of each point (spatial centring)")
    zero_clamp: bool = Field(True, description="code cosines below 0 count as 0")
    stabilize: bool = Field(False, description="code cosines above 0.8 count as 0.8")


@dataclass(frozen=True)
class Draws:
    """Everything random about the loss of one batch.

    Attributes:
        anchor_points: (B, S, S, 2) float32 in -1..1, last axis (x, y): where the images are sampled.
        other_points: (B, S, S, 2): where their neighbours and all negatives are.
        negatives: (N, B) int64, row n: the image of the batch that is negative n of each.
    """

    anchor_points: Tensor
    other_points: Tensor
    negatives: Tensor


class Term(NamedTuple):
    """One pair term before its mean: `loss` and code cosine, both (B, h1, w1, h2, w2)."""

    loss: Tensor
    cosine: Tensor


@dataclass(frozen=True)
class Pool:
    """The images that negatives are drawn from.

    Attributes:
        features: (P, C, H, W).
        codes: (P, D, H, W).
        level: (T,) means over this worker's pairs of T kinds -> the means over the pairs of all workers.
    """

    features: Tensor
    codes: Tensor
    level: Callable[[Tensor], Tensor] = lambda means: means


@dataclass(frozen=True)
class Correspondence:
    """Unweighted terms of the loss.

    Attributes:
        self_pairs: each image with itself.
        neighbours: with its neighbour.
        negatives: with each of its random images.
    """

    self_pairs: Term
    neighbours: Term
    negatives: tuple[Term, ...]

    @property
    def random(self) -> Term:
        """The negatives' batches one after another: row n·B + b is negative n of image b."""
        return Term(*(torch.cat(parts) for parts in zip(*self.negatives, strict=True)))

    def total(self, config: CorrespondenceConfig) -> Tensor:
        """The weighted sum of the means, a scalar."""
        return config.weight * sum(self.weighted(config).values(), torch.zeros(()))

    def weighted(self, config: CorrespondenceConfig) -> dict[str, Tensor]:
        """The mean of each term times its own weight."""
        return {
            "self": config.self_pairs.weight * self.self_pairs.loss.mean(),
            "neighbours": config.neighbours.weight * self.neighbours.loss.mean(),
            "random": config.random.weight * torch.stack([term.loss.mean() for term in self.negatives]).mean(),
        }


def normalised(x: Tensor) -> Tensor:
    """(B, C, ...) with channels of length 1; a zero vector stays zero."""
    return F.normalize(x, dim=1, eps=SMALLEST_NORM)


def average_normalised(x: Tensor) -> Tensor:
    """(B, C, H, W) over the mean length of all its channel vectors."""
    return x / x.norm(dim=1).mean()


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of every place of `a` with every place of `b`.

    Args:
        a: (B, C, h1, w1).
        b: (B, C, h2, w2).

    Returns:
        (B, h1, w1, h2, w2).
    """
    product = torch.bmm(a.flatten(2).transpose(1, 2), b.flatten(2))
    return product.view(len(a), *a.shape[2:], *b.shape[2:])


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples, corners aligned, the border repeated outside.

    Args:
        maps: (B, C, H, W).
        points: (B, S1, S2, 2) in -1..1, last axis (x, y).

    Returns:
        (B, C, S2, S1): the two point axes change places, as in the original.
    """
    grid = points.transpose(1, 2).to(maps)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)


def centred(cosine: Tensor, level: Tensor | None = None) -> Tensor:
    """Spatial centring (equation 4): each point's cosines less their mean over the second image.

    The mean of all pairs of the batch is put back, as in the original and unlike the paper's text: shifts stay on the
    scale of raw cosines.

    Args:
        cosine: (B, h1, w1, h2, w2).
        level: that mean, where the batch is larger than these rows.
    """
    if level is None:
        level = cosine.mean()
    cosine = cosine - cosine.mean((3, 4), keepdim=True)
    return cosine - cosine.mean() + level


def pair_term(
    features: tuple[Tensor, Tensor], codes: tuple[Tensor, Tensor], shift: float, config: CorrespondenceConfig
) -> Term:
    """Loss of one kind of pairs, on maps that are already sampled.

    Args:
        features: (B, C, h1, w1) and (B, C, h2, w2); no gradient reaches them.
        codes: (B, D, h1, w1) and (B, D, h2, w2).
        shift: threshold b of equation 2.
        config: which variant.
    """
    with torch.no_grad():
        agreement = correlation(normalised(features[0]), normalised(features[1]))
        level = agreement.mean()
    return _term(agreement, level, correlation(normalised(codes[0]), normalised(codes[1])), shift, config)


def _term(agreement: Tensor, level: Tensor, cosine: Tensor, shift: float, config: CorrespondenceConfig) -> Term:
    with torch.no_grad():
        agreement = (centred(agreement, level) if config.pointwise else agreement) - shift
    low = 0.0 if config.zero_clamp else NO_LOWER_CLAMP
    clamped = cosine.clamp(low, UPPER_CLAMP) if config.stabilize else cosine.clamp(low)
    return Term(-clamped * agreement, cosine)


def correspondence(
    features: tuple[Tensor, Tensor],
    codes: tuple[Tensor, Tensor],
    draws: Draws,
    config: CorrespondenceConfig,
    pool: Pool | None = None,
) -> Correspondence:
    """All terms of a batch: each image with itself, with its neighbour and with random images of the batch.

    Args:
        features: (B, C, H, W) of the images and of their neighbours.
        codes: (B, D, H, W) of both.
        draws: points and negatives; the points of an image serve its features and its codes.
        config: of the loss.
        pool: where the batch is larger than these images; default: these.
    """
    pool = pool or Pool(features[0], codes[0])
    here, there = draws.anchor_points, draws.other_points
    pairs = [(features[0], codes[0], here), (features[1], codes[1], there)]
    pairs += [(pool.features[other], pool.codes[other], there) for other in draws.negatives]
    shifts = [
        config.self_pairs.threshold,
        config.neighbours.threshold,
        *[config.random.threshold] * len(draws.negatives),
    ]
    with torch.no_grad():
        own_features = _unit(sample(features[0], here))
        agreements = [correlation(own_features, _unit(sample(f, points))) for f, _, points in pairs]
        levels = pool.level(torch.stack([agreement.mean() for agreement in agreements]))
    own_codes = normalised(sample(codes[0], here))
    terms = []
    for agreement, level, (_, code, points), shift in zip(agreements, levels, pairs, shifts, strict=True):
        cosine = correlation(own_codes, normalised(sample(code, points)))
        # one term for each negative: the level that centring puts back is that of its own pairs
        terms.append(_term(agreement, level, cosine, shift, config))
    return Correspondence(terms[0], terms[1], tuple(terms[2:]))


def _unit(x: Tensor) -> Tensor:
    """As `normalised`, four times as fast and without gradient."""
    return x / x.square().sum(1, keepdim=True).sqrt().clamp_min(SMALLEST_NORM)
