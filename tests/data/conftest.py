"""Small data sets of every layout, to be read and to be broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

HEIGHT, WIDTH = 6, 8
SQUARE = [[1, 1, 4, 1, 4, 4, 1, 4]]  # covers rows 1-3, columns 1-3


def _save_image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), shade, np.uint8)).save(path)


@pytest.fixture
def coco_content() -> dict[str, Any]:
    """An instances file of three images: a square of class 7 (dog), one over it of class 3 (cat), and nothing."""
    return {
        "images": [{"id": i, "file_name": f"{i:03d}.png", "height": HEIGHT, "width": WIDTH} for i in (2, 1, 3)],
        "annotations": [
            {"id": 10, "image_id": 1, "category_id": 7, "area": 9.0, "iscrowd": 0, "segmentation": SQUARE},
            {
                "id": 11,
                "image_id": 1,
                "category_id": 3,
                "area": 1.0,
                "iscrowd": 1,
                # column-major: 2 columns of 6, then 2 more, one pixel at row 2 of column 2
                "segmentation": {"size": [HEIGHT, WIDTH], "counts": [14, 1, 33]},
            },
            {"id": 12, "image_id": 2, "category_id": 3, "area": 9.0, "iscrowd": 0, "segmentation": SQUARE},
        ],
        "categories": [
            {"id": 7, "name": "dog", "supercategory": "animal"},
            {"id": 3, "name": "cat", "supercategory": "animal"},
        ],
    }


@pytest.fixture
def write_coco(tmp_path: Path, coco_content: dict[str, Any]) -> Callable[..., Path]:
    """Writes a COCO-style set: `write_coco(official=True, captions=..., classes=..., content=...)`."""

    def write(
        *,
        official: bool = True,
        split: str = "train",
        content: dict[str, Any] | None = coco_content,
        captions: dict[str, Any] | None = None,
        classes: dict[str, Any] | None = None,
    ) -> Path:
        root = tmp_path / "coco"
        images = root / split if official else root / split / "images"
        for i in (1, 2, 3):
            _save_image(images / f"{i:03d}.png", 50 * i)
        for kind, value in (("instances", content), ("captions", captions)):
            if value is not None:
                path = root / "annotations" / f"{kind}_{split}.json" if official else root / split / f"{kind}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(value))
        if classes is not None:
            (root / "classes.json").write_text(json.dumps(classes))
        return root

    return write


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """An index-PNG set: two splits, classes sky and road, void 2; the list of "train" leaves out c.png."""
    root = tmp_path / "camvid"
    for split, names in (("train", "abc"), ("val", "d")):
        for name in names:
            _save_image(root / "images" / split / f"{name}.png")
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[3:], mask[:, 7] = 1, 2
            (root / "masks" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(root / "masks" / split / f"{name}.png")
    (root / "train.txt").write_text("b.png\na.png\n")
    (root / "classes.json").write_text(json.dumps({"classes": ["sky", "road"], "ignore_index": 2}))
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A bare folder with a sub-folder, hidden files, and two images of one stem."""
    root = tmp_path / "photos"
    for name in ("b.png", "a.jpg", "a.png", "trip/c.JPG", ".cache/x.png", ".hidden.png"):
        _save_image(root / name)
    (root / "notes.txt").write_text("no image")
    return root
