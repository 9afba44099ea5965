"""From the name of an image to the stored features of it and of a neighbour, and the points they are compared at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ovseg_ray.data.sample import IGNORE_8, IGNORE_16, DecodedSample
from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.neighbour_table import NeighbourTable
from ovseg_ray.feature_store.store import FeatureStore
from ovseg_ray.methods.stego.config import StegoConfig
from ovseg_ray.methods.stego.head import DROPOUT
from ovseg_ray.networks.config import pretrained_tag, weights_file
from ovseg_ray.networks.frozen import weights_hash

IGNORE = -1


@lru_cache(maxsize=4)
def open_store(path: str) -> FeatureStore:
    """A store, once a process; its maps are shared between processes."""
    return FeatureStore.open(path)


@lru_cache(maxsize=4)
def open_table(path: str, features: str) -> NeighbourTable:
    """A neighbour table of these features, once a process."""
    return NeighbourTable.open(path, features)


@dataclass(frozen=True)
class StegoTransform:
    """Reads the store; the image itself takes no part.

    Raises:
        UserError: no store, or a neighbour table of other features.
    """

    config: StegoConfig

    def __post_init__(self) -> None:
        if self.config.features is None:
            raise UserError(
                "model.features: 'train stego' reads a feature store; make one with 'ovseg-ray embed DATA OUT', then "
                "give --data OUT"
            )
        store = open_store(self.config.features)
        weights = self.config.encoder.weights
        known = weights and (pretrained_tag(weights) or weights_file(weights).is_file())
        if known and weights_hash(weights) != store.info.job["weights"]:
            raise UserError(
                f"{self.config.features}: its features come from other weights than {weights} holds now; embed again"
            )
        if self.config.neighbours is not None:
            open_table(self.config.neighbours, store.info.features)

    def __call__(self, sample: DecodedSample, label_set: int, rng: np.random.Generator) -> dict[str, Any]:
        """
        Args:
            sample: named as in the store.
            label_set: takes no part.
            rng: draws the neighbour, the points, and whatever else is random about the image.

        Returns:
            "features", "neighbour" (C, h, w) float32; "anchor_points", "other_points" (S, S, 2) float32 in -1..1;
            "target" (S, S) int64 class indices, -1 where ignored or where the store has no masks; "draw" () int64, a
            random number; with dropout "kept", "neighbour_kept" (3, C) bool.

        Raises:
            UserError: an image that is not in the store or not in the table.
        """
        assert self.config.features is not None
        store = open_store(self.config.features)
        row = self._row(store, sample.image_id)
        features = torch.from_numpy(store.features(row))
        side, points = store.info.job["squares"]["size"], self.config.correspondence.points
        coordinates = rng.uniform(-1, 1, (2, points, points, 2)).astype(np.float32)
        neighbour = self._neighbour(store, sample.image_id, rng)
        example = {
            "features": features,
            "neighbour": features if neighbour is None else torch.from_numpy(store.features(neighbour)),
            "anchor_points": torch.from_numpy(coordinates[0]),
            "other_points": torch.from_numpy(coordinates[1]),
            "target": torch.from_numpy(_target(store.mask(row), side)),
            "draw": int(rng.integers(2**62)),
        }
        if self.config.dropout:
            kept = torch.from_numpy(rng.random((2, 3, len(features))) >= DROPOUT)
            example |= {"kept": kept[0], "neighbour_kept": kept[1]}
        return example

    def _row(self, store: FeatureStore, name: str) -> int:
        if name not in store.rows:
            raise UserError(f"image '{name}': is not in {store.path}; train on the store itself (--data {store.path})")
        return store.rows[name]

    def _neighbour(self, store: FeatureStore, name: str, rng: np.random.Generator) -> int | None:
        if self.config.neighbours is None:
            return None
        table = open_table(self.config.neighbours, store.info.features)
        known = table.drawn_from(name, self.config.neighbour_ranks)
        if not known:
            raise UserError(
                f"image '{name}': has no neighbour in {self.config.neighbours}; build the table with a larger --k"
            )
        return self._row(store, known[int(rng.integers(len(known)))])


def _target(mask: np.ndarray | None, side: int) -> np.ndarray:
    if mask is None:
        return np.full((side, side), IGNORE, np.int64)
    ignored = IGNORE_16 if mask.dtype == np.uint16 else IGNORE_8
    return np.where(mask == ignored, IGNORE, mask.astype(np.int64))
