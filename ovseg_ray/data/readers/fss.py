"""FSS-1000: a folder for each class with pictures and masks of it, ten in the original.

```
CLASS/1.jpg  CLASS/1.png …              a mask is the class where it is 128 or more
splits/trn.txt  splits/val.txt  splits/test.txt   names of the classes of each split; without them one split "all"
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovseg_ray.data.dataset import DataSet, plain_index
from ovseg_ray.data.images import DAMAGE, read_bytes, undecoded
from ovseg_ray.data.masks import check_size, ignore_value
from ovseg_ray.data.readers.files import image_ids, read_lines, require_files
from ovseg_ray.errors import UserError
from ovseg_ray.vocabulary import Label, Vocabulary

THRESHOLD = 128
SPLITS = {"train": "trn.txt", "val": "val.txt", "test": "test.txt"}
WHOLE = "all"


@dataclass(frozen=True)
class FssMasks:
    """Reads a mask whose class is its folder.

    Attributes:
        classes: class index of each folder.
    """

    classes: Mapping[str, int]

    def __call__(self, row: Mapping[str, Any], height: int, width: int) -> np.ndarray:
        """(height, width) class indices, background 0; see `MaskReader`."""
        path = row["mask_path"]
        with undecoded(read_bytes(path), path) as mask:
            check_size(path, (mask.height, mask.width), (height, width))
            try:
                inside = np.array(mask.convert("L")) >= THRESHOLD
            except DAMAGE as error:
                raise UserError(f"{path}: damaged mask ({error}); replace it") from error
        kind = np.uint8 if ignore_value(len(self.classes) + 1) == np.iinfo(np.uint8).max else np.uint16
        return np.where(inside, self.classes[Path(path).parent.name], 0).astype(kind)

    def present(self, row: Mapping[str, Any]) -> set[int]:
        """The class of a row, without opening its mask."""
        return {self.classes[Path(row["mask_path"]).parent.name]}


def recognises(root: Path) -> bool:
    """Whether a folder holds 1.jpg and 1.png."""
    return next((True for picture in root.glob("*/1.jpg") if picture.with_suffix(".png").is_file()), False)


def splits(root: Path) -> list[str]:
    """Those with a list of classes; "all" where there is none."""
    return sorted(name for name, file in SPLITS.items() if (root / "splits" / file).is_file()) or [WHOLE]


def read(root: Path, split: str) -> DataSet:
    """The classes of one split, and background.

    Raises:
        UserError: an empty list, a class without a folder, or a picture without a mask.
    """
    source = root / "splits" / SPLITS.get(split, "")
    if split == WHOLE:
        classes = sorted(path.parent.name for path in root.glob("*/1.jpg"))
    else:
        classes = read_lines(source, "classes")
        require_files(root, [f"{name}/1.jpg" for name in classes], source)
    pictures = [f"{name}/{path.name}" for name in classes for path in (root / name).glob("*.jpg")]
    masks = [f"{name.removesuffix('.jpg')}.png" for name in pictures]
    require_files(root, masks, root, what="mask")
    rows = sorted(zip(image_ids(pictures, root), pictures, masks, strict=True))
    index = plain_index([row[0] for row in rows], [root / row[1] for row in rows], [root / row[2] for row in rows])
    labels = (Label("background", ("background",), background=True), *(Label(name, (name,)) for name in classes))
    vocabulary = Vocabulary(labels, name=f"fss-1000 {split}")
    return DataSet(root, split, "fss", index, vocabulary, FssMasks({name: i + 1 for i, name in enumerate(classes)}))
