from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg_ray.data import open_dataset
from ovseg_ray.errors import UserError


def test_list_file_chooses_and_index_is_sorted(camvid: Path) -> None:
    dataset = open_dataset(camvid)
    assert dataset.kind == "index_png"
    assert dataset.index.column("image_id").to_pylist() == ["a", "b"]
    assert dataset.vocabulary is not None
    assert dataset.vocabulary.names == ("sky", "road")
    assert dataset.parents == {}


@pytest.mark.parametrize("lines", ["b\na\n", "b.png\r\na.png", "\n a.png \n\nb"])
def test_list_may_leave_out_suffixes_and_hold_blanks(camvid: Path, lines: str) -> None:
    (camvid / "train.txt").write_text(lines)
    assert open_dataset(camvid).index.column("image_id").to_pylist() == ["a", "b"]


def test_without_a_list_all_images_count(camvid: Path) -> None:
    (camvid / "train.txt").unlink()
    assert len(open_dataset(camvid)) == 3


def test_values_are_classes_and_the_ignored_one_becomes_255(camvid: Path) -> None:
    mask = open_dataset(camvid).decoded(0).mask
    assert mask is not None
    assert mask.dtype == np.uint8
    assert mask[0].tolist() == [0] * 7 + [255]
    assert mask[5].tolist() == [1] * 7 + [255]


def test_unseen_and_parents_are_taken_over(camvid: Path) -> None:
    extra = {"unseen": ["road"], "parents": {"road": "ground", "sky": "air"}}
    (camvid / "classes.json").write_text(json.dumps({"classes": ["sky", "road"], "ignore_index": 2} | extra))
    dataset = open_dataset(camvid)
    assert dataset.unseen == ("road",)
    assert dataset.parents == extra["parents"]


def test_cityscapes_style_jpeg_images_with_png_masks(camvid: Path) -> None:
    (camvid / "images/train/a.png").unlink()
    Image.new("RGB", (8, 6)).save(camvid / "images/train/a.jpg")
    (camvid / "train.txt").write_text("a\n")
    assert open_dataset(camvid).row(0)["image_path"].endswith("a.jpg")


@pytest.mark.parametrize(
    ("table", "fragment"),
    [
        ({"ignore_index": 2}, "lacks 'classes'"),
        ({"classes": {"sky": 0}}, "'classes' must be a list of names"),
        ({"classes": ["sky", 1]}, "'classes' must be a list of names"),
        ({"classes": ["sky", "sky"]}, "label 'sky' stands twice"),
        ({"classes": ["sky", " "]}, "is empty"),
        ({"classes": ["sky", "road"], "ignore_index": 1}, "'ignore_index' 1 is the index of class 'road'"),
        ({"classes": ["sky", "road"], "ignore_index": -1}, "'ignore_index' is -1"),
        ({"classes": ["sky", "road"], "ignore_index": "2"}, "'ignore_index' is '2'"),
        ({"classes": ["sky", "road"], "ignore_index": None}, "'ignore_index' is None"),
        ({"classes": ["sky", "road"], "unseen": ["sea"]}, "'unseen' names 'sea'"),
    ],
)
def test_bad_class_tables_are_named(camvid: Path, table: dict[str, Any], fragment: str) -> None:
    (camvid / "classes.json").write_text(json.dumps(table))
    with pytest.raises(UserError) as caught:
        open_dataset(camvid)
    assert str(caught.value).startswith(f"{camvid}/classes.json: ")
    assert fragment in str(caught.value)


def empty_folder(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("break_it", "name", "fragment"),
    [
        (lambda r: (r / "classes.json").unlink(), "classes.json", 'missing; write {"classes"'),
        (lambda r: (r / "masks").rename(r / "labels"), "", "has no masks/ folder"),
        (lambda r: (r / "images").rename(r / "pictures"), "", "has no images/ folder"),
        (lambda r: (r / "train.txt").write_text("a.png\nz.png\ny"), "train.txt", "names image z.png, which is not in"),
        (lambda r: (r / "train.txt").write_text("a.png\nz.png\ny"), "train.txt", "2 files are missing"),
        (lambda r: (r / "train.txt").write_text("\n"), "train.txt", "lists no images"),
        (lambda r: (r / "train.txt").write_text("a.png\na\n"), "train.txt", "image a.png is listed twice"),
        (lambda r: (r / "train.txt").write_bytes(b"\xff\xfe"), "train.txt", "cannot be read as text"),
        (lambda r: (r / "masks/train/b.png").unlink(), "images/train", "names mask b.png, which is not in"),
    ],
)
def test_what_is_missing_is_named(camvid: Path, break_it: Any, name: str, fragment: str) -> None:
    break_it(camvid)
    with pytest.raises(UserError) as caught:
        open_dataset(camvid)
    message = str(caught.value)
    assert message.startswith(f"{camvid / name}: ")
    assert fragment in message
    assert "\n" not in message


def test_empty_splits(camvid: Path) -> None:
    empty_folder(camvid / "images/val")
    with pytest.raises(UserError, match="images/val: holds no images"):
        open_dataset(camvid, "val")


@pytest.mark.parametrize(
    ("mask", "fragment"),
    [
        (np.full((6, 8), 3, np.uint8), "class id 3 is outside the label set of 2 classes"),
        (np.full((6, 8), 255, np.uint8), "class id 255 is outside"),
        (np.zeros((8, 6), np.uint8), "mask is 6 x 8 but its image is 8 x 6"),
        (np.zeros((6, 8, 3), np.uint8), "mask is RGB"),
    ],
)
def test_bad_masks_are_named_when_read(camvid: Path, mask: np.ndarray, fragment: str) -> None:
    path = camvid / "masks/train/a.png"
    Image.fromarray(mask).save(path)
    dataset = open_dataset(camvid)
    for read in (dataset.decoded, lambda i: dataset.sample(dataset.row(i))):
        with pytest.raises(UserError) as caught:
            read(0)
        assert str(caught.value).startswith(f"{path}: ")
        assert fragment in str(caught.value)


def test_sixteen_bit_masks(camvid: Path) -> None:
    names = [f"class {i}" for i in range(400)]
    (camvid / "classes.json").write_text(json.dumps({"classes": names, "ignore_index": 65535}))
    mask = np.full((6, 8), 399, np.uint16)
    mask[0, 0] = 65535
    Image.fromarray(mask).save(camvid / "masks/train/a.png")
    np.testing.assert_array_equal(open_dataset(camvid).decoded(0).mask, mask)
