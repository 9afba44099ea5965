"""A starting point for shifts on a new data set: the published ones belong to the features they were tuned on.

A shift is a threshold on (centred) feature cosines, whose scale differs between backbones and data sets. What carries
over is the share of pairs above it: of two points in one image or in neighbours few show the same thing, of random
images hardly any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ovseg_ray.methods.stego.correspondence import CorrespondenceConfig, centred, correlation, normalised, sample
from ovseg_ray.methods.stego.negatives import cyclic_negatives

# share of pairs of points that are pushed together
SHARES: Mapping[str, float] = {"self_pairs": 0.25, "neighbours": 0.2, "random": 0.02}
MOST_PAIRS = 2_000_000


def suggest_shifts(
    batches: Iterable[tuple[Tensor, Tensor]], config: CorrespondenceConfig, shares: Mapping[str, float] = SHARES
) -> dict[str, float]:
    """Shifts at which the wanted shares of pairs lie above.

    Args:
        batches: (B, C, h, w) features of images and of a neighbour of each, B of 2 or more; a few hundred images do.
        config: whether cosines are centred, and how many points are drawn.
        shares: of each kind of pairs, in 0..1.

    Returns:
        `self_pairs`, `neighbours` and `random`, rounded to three places.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in SHARES}
    generator = torch.Generator().manual_seed(0)
    for features, near in batches:
        shape = (len(features), config.points, config.points, 2)
        here, there = (torch.rand(shape, generator=generator) * 2 - 1 for _ in range(2))
        own = normalised(sample(features, here))
        order = torch.randperm(len(features), generator=generator)
        far = features[cyclic_negatives(order)]
        others = {"self_pairs": own, "neighbours": normalised(sample(near, there))}
        others["random"] = normalised(sample(far, there))
        for name, other in others.items():
            cosines = correlation(own, other)
            found[name].append((centred(cosines) if config.pointwise else cosines).flatten())
    shifts = {}
    for name, parts in found.items():
        values = torch.cat(parts)
        step = max(len(values) // MOST_PAIRS, 1)  # torch's quantile has a limit
        shifts[name] = round(float(values[::step].quantile(1 - shares[name])), 3)
    return shifts
