from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.prediction_files import to_coco, write_prediction
from ovseg_ray.segmenter import Result
from ovseg_ray.vocabulary import Vocabulary


def result(dtype: type = np.uint8, labels: int = 4) -> Result:
    label_map = np.array([[0, 0, 2, 2], [0, 2, 2, 2]], dtype)
    confidence = np.where(label_map == 0, 0.25, 0.75).astype(np.float32)
    return Result(label_map, confidence, Vocabulary.of([f"label {i}" for i in range(labels)]))


def test_coco_gives_the_label_map_back() -> None:
    description = json.loads(json.dumps(to_coco(result())))
    assert description["labels"] == ["label 0", "label 1", "label 2", "label 3"]
    assert [a["category_id"] for a in description["annotations"]] == [2, 0]
    back = np.full((2, 4), 99)
    for annotation in description["annotations"]:
        mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
        assert mask.sum() == annotation["area"]
        back[mask] = annotation["category_id"]
    assert back.tolist() == result().label_map.tolist()
    assert description["annotations"][0]["bbox"] == [1, 0, 3, 2]
    assert [a["score"] for a in description["annotations"]] == [0.75, 0.25]


@pytest.mark.parametrize(("dtype", "labels"), [(np.uint8, 4), (np.uint16, 300)])
def test_files(tmp_path: Path, dtype: type, labels: int) -> None:
    write_prediction(tmp_path / "out", "cat", Path("/x/cat.jpg"), np.zeros((2, 4, 3), np.uint8), result(dtype, labels))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"cat_overlay.png", "cat_ids.png", "cat.json"}
    ids = np.asarray(Image.open(tmp_path / "out" / "cat_ids.png"))
    assert ids.dtype == dtype
    assert np.array_equal(ids, result().label_map)
    assert json.loads((tmp_path / "out" / "cat.json").read_text())["image"] == "/x/cat.jpg"
    assert Image.open(io.BytesIO((tmp_path / "out" / "cat_overlay.png").read_bytes())).size[0] > 4


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_prediction(tmp_path / "file", "cat", Path("cat.jpg"), np.zeros((2, 4, 3), np.uint8), result())
