from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_ray.data import open_dataset
from ovseg_ray.data.dataset import INDEX_SCHEMA
from ovseg_ray.errors import UserError


def test_sample_on_the_wire_decodes_to_the_same(write_coco: Callable[..., Path]) -> None:
    dataset = open_dataset(write_coco())
    for i in range(len(dataset)):
        direct, sent = dataset.decoded(i), dataset.sample(dataset.row(i))
        decoded = sent.decode()
        assert (sent.height, sent.width) == direct.image.shape[:2]
        assert decoded.image_id == direct.image_id
        assert decoded.captions == direct.captions
        np.testing.assert_array_equal(decoded.image, direct.image)
        np.testing.assert_array_equal(decoded.mask, direct.mask)


def turn(path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.open(path).convert("RGB").save(path, exif=tags)


def test_exif_turns_photographs_but_not_images_with_masks(camvid: Path, photos: Path) -> None:
    turn(camvid / "images/train/a.png")
    annotated = open_dataset(camvid)
    assert annotated.decoded(0).image.shape == (6, 8, 3)
    assert annotated.sample(annotated.row(0)).decode().image.shape == (6, 8, 3)
    turn(photos / "b.png")
    bare = open_dataset(photos)
    row = bare.row(bare.index.column("image_id").to_pylist().index("b"))
    sample = bare.sample(row)
    assert bare.decode_row(row).image.shape == (8, 6, 3) == sample.decode().image.shape
    assert (sample.height, sample.width) == (8, 6)


def test_what_travels_to_workers_is_small_and_still_reads(camvid: Path) -> None:
    dataset = open_dataset(camvid)
    row = dataset.row(0)
    sent = pickle.dumps(dataset.without_index())
    assert len(sent) < 5_000
    reader = pickle.loads(sent)
    assert len(reader) == 0
    assert reader.index.schema == INDEX_SCHEMA
    np.testing.assert_array_equal(reader.decode_row(row).mask, dataset.decoded(0).mask)


def test_fingerprint_follows_content_not_place(camvid: Path, tmp_path: Path) -> None:
    first = open_dataset(camvid).fingerprint()
    shutil.copytree(camvid, tmp_path / "elsewhere")
    assert open_dataset(tmp_path / "elsewhere").fingerprint() == first
    assert open_dataset(camvid, "val").fingerprint() != first
    (camvid / "train.txt").write_text("a.png\n")
    assert open_dataset(camvid).fingerprint() != first
    (camvid / "classes.json").write_text('{"classes": ["sky", "street"], "ignore_index": 2}')
    (camvid / "train.txt").write_text("b.png\na.png\n")
    assert open_dataset(camvid).fingerprint() != first


def test_masks_are_asked_for_by_name(camvid: Path, photos: Path) -> None:
    assert open_dataset(camvid).require_masks().names == ("sky", "road")
    with pytest.raises(UserError, match=r"photos \(split all\): has no masks; give a data set with masks"):
        open_dataset(photos).require_masks()
    with pytest.raises(UserError, match="has no masks"):
        replace(open_dataset(camvid), masks=None).require_masks()
