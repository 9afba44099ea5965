from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ovseg_ray.data import list_splits, open_dataset
from ovseg_ray.errors import UserError


def test_all_images_below_the_folder_and_nothing_hidden(photos: Path) -> None:
    dataset = open_dataset(photos)
    assert dataset.kind == "folder"
    assert dataset.split == "all"
    assert list_splits(photos) == ["all"]
    # two files of one stem keep their suffixes, so that results do not overwrite each other
    assert dataset.index.column("image_id").to_pylist() == ["a.jpg", "a.png", "b", "trip/c"]
    assert dataset.vocabulary is None
    assert dataset.decoded(3).mask is None
    assert dataset.decoded(3).captions == ()


def test_a_name_that_is_another_s_stem_is_not_both_their_ids(photos: Path) -> None:
    shutil.copy(photos / "a.png", photos / "a.jpg.png")
    shutil.copy(photos / "b.png", photos / "b.png.jpg")
    names = open_dataset(photos).index.column("image_id").to_pylist()
    assert names == ["a.jpg", "a.jpg.png", "a.png", "b", "b.png.jpg", "trip/c"]


@pytest.mark.parametrize("masks", [False, True])
def test_one_split_of_a_data_set_is_not_a_folder_of_photographs(write_coco: Callable[..., Path], masks: bool) -> None:
    root = write_coco(official=False)
    if masks:
        (root / "train/masks").mkdir()
    with pytest.raises(UserError, match=r"train: is one split of a data set \(instances.json\); give .*--split train"):
        open_dataset(root / "train")


def test_opening_reads_no_image(photos: Path) -> None:
    (photos / "b.png").write_bytes(b"no image at all")
    dataset = open_dataset(photos)
    with pytest.raises(UserError, match=r"b\.png: not an image"):
        dataset.decoded(2)


def test_same_files_elsewhere_are_the_same_data(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "copy")
    assert open_dataset(tmp_path / "copy").fingerprint() == open_dataset(photos).fingerprint()
