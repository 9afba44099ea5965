"""A feature store as a data set to train on: its rows by name, without pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovseg_ray.data.dataset import DataSet, plain_index
from ovseg_ray.data.sample import DecodedSample
from ovseg_ray.feature_store.store import FeatureStore, is_store
from ovseg_ray.feature_store.vectors import PARTS

SPLIT = "train"


@dataclass(frozen=True)
class FeatureDataSet(DataSet):
    """Samples of one black pixel: methods that train on a store look their rows up by name."""

    features: str = ""

    def files(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """None: the rows of a store come from no file of their own."""
        return ()

    def decode_row(self, row: Mapping[str, Any], data: bytes | None = None) -> DecodedSample:
        """Nothing is decoded."""
        return DecodedSample(row["image_id"], np.zeros((1, 1, 3), np.uint8), None, ())

    def fingerprint(self) -> str:
        """The hash of the features."""
        return self.features


def recognises(root: Path) -> bool:
    """Whether the directory is a feature store, finished or not."""
    return is_store(root)


def splits(root: Path) -> list[str]:
    """To train on, whatever the images came from; "val" has the same rows: what needs no labels holds none out."""
    return [SPLIT, "val"]


def read(root: Path, split: str) -> DataSet:
    """All rows of the store.

    Raises:
        UserError: it is not finished.
    """
    store = FeatureStore.open(root)
    names = sorted(store.image_ids)
    index = plain_index(names, [root / PARTS] * len(names))
    return FeatureDataSet(root, split, "features", index, None, None, features=store.info.features)
