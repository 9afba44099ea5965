"""A part of a training split kept for validation, so that choices need not be made on the held-out split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from ovseg_ray.data.crops import image_of_crop
from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError


def cut(dataset: DataSet, share: float) -> tuple[DataSet, DataSet]:
    """The images to train on and those to validate on.

    Which images are cut out follows from their names alone, and all crops of an image stay together.

    Args:
        dataset: whole.
        share: of its images that validate, above 0 and below 1; at least one is cut out and one is left.

    Raises:
        UserError: fewer than two images.
    """
    names = dataset.index.column("image_id").to_pylist()
    chosen = set(validation_images(names, share))
    if not 0 < len(chosen) < len({image_of_crop(name) for name in names}):
        raise UserError(f"{dataset.path} (split {dataset.split}): too few images to cut validation images from")
    within = [image_of_crop(name) in chosen for name in names]
    return (
        replace(dataset, index=dataset.index.filter([not chosen_one for chosen_one in within])),
        replace(dataset, index=dataset.index.filter(within)),
    )


def validation_images(names: Sequence[str], share: float) -> list[str]:
    """Images cut out of those that `names` (of images or of their crops) belong to, sorted."""
    images = {image_of_crop(name) for name in names}
    ordered = sorted(images, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = min(max(round(share * len(images)), 1), len(images) - 1)
    return sorted(ordered[: max(count, 0)])
