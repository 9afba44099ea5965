"""Which reader takes a directory. A new format is one module and one line here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.data.readers import coco, feature_store, folder, fss, index_png, voc
from ovseg_ray.errors import UserError

DEFAULT_SPLIT = "train"


@dataclass(frozen=True)
class Reader:
    """One format.

    Attributes:
        recognises: whether a directory is laid out this way, right or with something missing.
        splits: names of its splits, sorted.
        read: one split.
    """

    recognises: Callable[[Path], bool]
    splits: Callable[[Path], list[str]]
    read: Callable[[Path, str], DataSet]


READERS = (
    Reader(feature_store.recognises, feature_store.splits, feature_store.read),
    Reader(coco.recognises, coco.splits, coco.read),
    Reader(index_png.recognises, index_png.splits, index_png.read),
    Reader(voc.recognises, voc.splits, voc.read),
    Reader(fss.recognises, fss.splits, fss.read),
    Reader(folder.recognises, folder.splits, folder.read),
)


def open_dataset(path: str | Path, split: str | None = None) -> DataSet:
    """Open a split of a data set; the layout of the directory tells its format.

    COCO-style directories, images with index-PNG masks and `classes.json`, PASCAL VOC, FSS-1000 and bare folders of
    images are known. Images are not decoded here: what is wrong inside a file shows when it is read, or in
    `check_dataset`.

    Args:
        path: directory of the data set.
        split: None takes "train" if there is one, else the only one.

    Raises:
        UserError: no such directory or split, nothing in it, or files that do not belong together.
    """
    root, reader, found = _located(path, split)
    return reader.read(root, found)


def check_split(path: str | Path, split: str | None = None) -> None:
    """As `open_dataset` would find it, without reading what it holds: that may take long.

    Raises:
        UserError: no such directory or split, or no data set in it.
    """
    _located(path, split)


def _located(path: str | Path, split: str | None) -> tuple[Path, Reader, str]:
    root, reader = _recognise(path)
    splits = reader.splits(root)
    if split is None:
        if DEFAULT_SPLIT not in splits and len(splits) != 1:
            raise UserError(f"{root}: name a split, for example --split {splits[0]}; it has {', '.join(splits)}")
        split = DEFAULT_SPLIT if DEFAULT_SPLIT in splits else splits[0]
    if split not in splits:
        raise UserError(f"{root}: has no split '{split}'; it has {', '.join(splits)}")
    return root, reader, split


def list_splits(path: str | Path) -> list[str]:
    """Names of the splits of a data set, sorted.

    Raises:
        UserError: no such directory, or no data set in it.
    """
    root, reader = _recognise(path)
    return reader.splits(root)


def _recognise(path: str | Path) -> tuple[Path, Reader]:
    root = Path(os.path.abspath(path))  # not resolved: names below a link stay the user's own
    if not root.is_dir():
        reason = "is a file" if root.exists() else "no such directory"
        raise UserError(f"{path}: {reason}; give the directory of a data set")
    for name in coco.SPLIT_FILES:
        if (root / name).is_file():  # its images or masks alone would pass for another format
            raise UserError(f"{root}: is one split of a data set ({name}); give {root.parent} and --split {root.name}")
    for reader in READERS:
        if reader.recognises(root):
            return root, reader
    raise UserError(
        f"{root}: no data set found; give a COCO-style directory (annotations/instances_train.json and images in "
        "train/), one with images/, masks/ and classes.json, or a folder of images"
    )
