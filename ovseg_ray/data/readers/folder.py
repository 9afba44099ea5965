"""A bare folder of images, with those of its sub-folders: photographs without masks or captions."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from ovseg_ray.data.dataset import INDEX_SCHEMA, DataSet
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
    index = pa.table(
        {
            "image_id": [image_id for image_id, _ in rows],
            "image_path": [str(root / name) for _, name in rows],
            "mask_path": pa.nulls(len(rows), pa.string()),
            "instances": pa.nulls(len(rows), pa.string()),
            "captions": [[] for _ in rows],
        },
        schema=INDEX_SCHEMA,
    )
    return DataSet(root, split, "folder", index, vocabulary=None, masks=None, exif=True)
