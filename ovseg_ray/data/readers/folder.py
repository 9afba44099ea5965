"""A bare folder of images, with those of its sub-folders: photographs without masks or captions."""

from __future__ import annotations

from pathlib import Path

from ovseg_ray.data.dataset import DataSet, plain_index
from ovseg_ray.data.readers.files import image_ids, walk_images

SPLIT = "all"


def recognises(root: Path) -> bool:
    """Whether there is an image anywhere below the directory."""
    return next(iter(walk_images(root)), None) is not None


def splits(root: Path) -> list[str]:
    """The one split."""
    return [SPLIT]


def read(root: Path, split: str) -> DataSet:
    """All images, by their path below the folder; hidden files and folders are left out."""
    names = list(walk_images(root))
    rows = sorted(zip(image_ids(names, root), names, strict=True))
    index = plain_index([image_id for image_id, _ in rows], [root / name for _, name in rows])
    return DataSet(root, split, "folder", index, vocabulary=None, masks=None, exif=True)
