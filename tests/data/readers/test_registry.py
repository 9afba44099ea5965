from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import ovseg_ray.data
from ovseg_ray.data import list_splits, open_dataset
from ovseg_ray.errors import UserError


def test_train_is_the_default_split(camvid: Path) -> None:
    assert list_splits(camvid) == ["train", "val"]
    assert open_dataset(camvid).split == "train"
    assert open_dataset(camvid, "val").split == "val"


def test_the_only_split_is_taken(camvid: Path) -> None:
    shutil.rmtree(camvid / "images/train")
    assert open_dataset(camvid).split == "val"


def test_several_splits_without_train_must_be_chosen(camvid: Path) -> None:
    for kind in ("images", "masks"):
        (camvid / kind / "train").rename(camvid / kind / "test")
    with pytest.raises(UserError, match=r"camvid: name a split, for example --split test; it has test, val"):
        open_dataset(camvid)


def test_unknown_split_names_those_there_are(camvid: Path) -> None:
    with pytest.raises(UserError, match=r"camvid: has no split 'tset'; it has train, val"):
        open_dataset(camvid, "tset")


def test_coco_goes_before_index_png(write_coco: Callable[..., Path]) -> None:
    root = write_coco(official=False, classes={"classes": ["dog", "cat"]})
    (root / "train/masks").mkdir()
    assert open_dataset(root).kind == "coco"


@pytest.mark.parametrize("opener", [open_dataset, list_splits])
def test_nothing_there(tmp_path: Path, opener: Callable[[Path], object]) -> None:
    with pytest.raises(UserError, match=r"gone: no such directory; give the directory of a data set"):
        opener(tmp_path / "gone")
    with pytest.raises(UserError, match=r"no data set found; give a COCO-style directory"):
        opener(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file: is a file; give the directory"):
        opener(tmp_path / "file")


def test_relative_paths_become_absolute(camvid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(camvid.parent)
    dataset = open_dataset("camvid")
    assert dataset.path == camvid
    assert os.path.isabs(dataset.row(0)["image_path"])


def test_reading_needs_no_ray() -> None:
    room = Path(ovseg_ray.data.__file__).parent
    modules = [*room.glob("*.py"), *room.glob("readers/*.py")]
    users = [path.name for path in modules if re.search(r"^\s*(import|from) ray\b", path.read_text(), re.MULTILINE)]
    assert users == ["ray_dataset.py"]
