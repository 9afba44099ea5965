"""PASCAL VOC in its own layout: 20 classes and background, object boundaries ignored.

```
JPEGImages/*.jpg
SegmentationClassAug/*.png or SegmentationClass/*.png   0 background, 1..20 classes, 255 boundary
ImageSets/Segmentation/SPLIT.txt                        names of images, one a line
splits/trn/foldN.txt, splits/val/foldN.txt              optional: lists of PASCAL-5i (`data/episodes.py`)
```
"""

from __future__ import annotations

from pathlib import Path

from ovseg_ray.data.dataset import DataSet, plain_index
from ovseg_ray.data.readers.files import image_ids, read_lines, require_files
from ovseg_ray.data.readers.index_png import IndexMasks
from ovseg_ray.data.sample import IGNORE_8
from ovseg_ray.errors import UserError
from ovseg_ray.vocabulary import Label, Vocabulary

MASKS = ("SegmentationClassAug", "SegmentationClass")  # the first adds the masks of SBD
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def recognises(root: Path) -> bool:
    """Whether the folders have VOC's names."""
    return (root / "JPEGImages").is_dir() and any((root / name).is_dir() for name in MASKS)


def splits(root: Path) -> list[str]:
    """Lists of images, sorted.

    Raises:
        UserError: none.
    """
    found = sorted(path.stem for path in (root / "ImageSets" / "Segmentation").glob("*.txt"))
    if not found:
        raise UserError(f"{root / 'ImageSets' / 'Segmentation'}: has no lists of images; add train.txt and val.txt")
    return found


def read(root: Path, split: str) -> DataSet:
    """One split.

    Raises:
        UserError: an empty list, or an image or mask that is not there.
    """
    source = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    names = sorted(read_lines(source))
    masks = next(root / name for name in MASKS if (root / name).is_dir())
    require_files(root / "JPEGImages", [f"{name}.jpg" for name in names], source)
    require_files(masks, [f"{name}.png" for name in names], source, what="mask")
    index = plain_index(
        image_ids([f"{name}.jpg" for name in names], source),
        [root / "JPEGImages" / f"{name}.jpg" for name in names],
        [masks / f"{name}.png" for name in names],
    )
    labels = (Label("background", ("background",), background=True), *(Label(name, (name,)) for name in CLASSES))
    vocabulary = Vocabulary(labels, name="pascal-voc")
    return DataSet(root, split, "voc", index, vocabulary, IndexMasks(len(labels), IGNORE_8))
