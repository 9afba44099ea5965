"""Images beside PNGs that hold a class index for every pixel (CamVid and its like).

```
classes.json     {"classes": [names in index order], "ignore_index": 255, "unseen": [...], "parents": {...}}
images/SPLIT/    pictures
masks/SPLIT/     PNGs of the same names
SPLIT.txt        names of the images, one a line, with or without suffix; without it: all in images/SPLIT
```

"ignore_index" (255 if left out), "unseen" and "parents" (leaf to parent) are optional.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ovseg_ray.data.dataset import DataSet, plain_index
from ovseg_ray.data.masks import read_index_png, translate
from ovseg_ray.data.readers.files import (
    class_groups,
    class_vocabulary,
    image_ids,
    read_json,
    read_lines,
    require_files,
    walk_images,
)
from ovseg_ray.data.sample import IGNORE_8
from ovseg_ray.errors import UserError

CLASSES = "classes.json"


@dataclass(frozen=True)
class IndexMasks:
    """Reads masks whose values are the class indices themselves.

    Attributes:
        num_classes: values 0..num_classes-1 are classes.
        ignore_index: the value of unlabelled pixels.
    """

    num_classes: int
    ignore_index: int

    def __call__(self, row: Mapping[str, Any], height: int, width: int) -> np.ndarray:
        """(height, width) class indices; see `MaskReader`."""
        path = row["mask_path"]
        values = read_index_png(path, height, width)
        table = {value: value for value in range(self.num_classes)}
        return translate(values, table, frozenset({self.ignore_index}), self.num_classes, path)


def recognises(root: Path) -> bool:
    """Whether there are masks or a class list."""
    return (root / "masks").is_dir() or (root / CLASSES).is_file()


def splits(root: Path) -> list[str]:
    """The folders below `images/`.

    Raises:
        UserError: none.
    """
    for name in ("images", "masks"):
        if not (root / name).is_dir():
            raise UserError(f"{root}: has no {name}/ folder; put images in images/SPLIT and masks in masks/SPLIT")
    found = sorted(entry.name for entry in (root / "images").iterdir() if entry.is_dir())
    if not found:
        raise UserError(f"{root / 'images'}: has no split; put the images in a folder such as images/train")
    return found


def read(root: Path, split: str) -> DataSet:
    """One split.

    Raises:
        UserError: a class list of another form, no images, or an image without a mask.
    """
    table = _class_table(root / CLASSES)
    vocabulary = class_vocabulary(table["classes"], root / CLASSES, root.name)
    unseen, parents = class_groups(table, vocabulary.names, root / CLASSES)
    images, masks = root / "images" / split, root / "masks" / split
    names = _image_names(images, root / f"{split}.txt")
    targets = [PurePosixPath(name).with_suffix(".png").as_posix() for name in names]
    require_files(masks, targets, images, what="mask")
    rows = sorted(zip(image_ids(names, images), names, targets, strict=True))
    index = plain_index([row[0] for row in rows], [images / row[1] for row in rows], [masks / row[2] for row in rows])
    reader = IndexMasks(len(vocabulary), table.get("ignore_index", IGNORE_8))
    return DataSet(root, split, "index_png", index, vocabulary, reader, unseen, parents)


def _class_table(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f'{path}: missing; write {{"classes": [names in index order], "ignore_index": 255}}')
    table = read_json(path)
    if "classes" not in table:
        raise UserError(f"{path}: lacks 'classes'; add the list of names in the order of the mask values")
    ignore = table.get("ignore_index", IGNORE_8)
    if not isinstance(ignore, int) or isinstance(ignore, bool) or ignore < 0:
        raise UserError(f"{path}: 'ignore_index' is {ignore!r}, must be the mask value of unlabelled pixels, 0 or more")
    if isinstance(table["classes"], list) and ignore < len(table["classes"]):
        raise UserError(
            f"{path}: 'ignore_index' {ignore} is the index of class '{table['classes'][ignore]}'; "
            "give the mask value of unlabelled pixels"
        )
    return table


def _image_names(images: Path, list_file: Path) -> list[str]:
    present = list(walk_images(images))
    if not list_file.is_file():
        if not present:
            raise UserError(f"{images}: holds no images; add some, or leave the split out")
        return present
    listed = read_lines(list_file)
    by_stem = {PurePosixPath(name).with_suffix("").as_posix(): name for name in present}
    exact = set(present)
    names = [name if name in exact else by_stem.get(name, name) for name in listed]
    require_files(images, names, list_file)
    image_ids(names, list_file)  # refuses repeated lines in the list's own name
    return names
