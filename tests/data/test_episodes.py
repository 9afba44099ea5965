"""Zero-shot protocols: which classes are held out, which images show a class, in which order episodes are drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_ray.data import open_dataset
from ovseg_ray.data.episodes import PROTOCOLS, EpisodeProtocol, Fold, pairs
from ovseg_ray.data.readers.voc import CLASSES
from ovseg_ray.errors import UserError

SIDE = 8


def picture(path: Path, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (SIDE, SIDE), 90 if mode == "L" else (90, 80, 70)).save(path)


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image i shows classes i % 20 + 1 and, every third one, 20; a stripe of boundary."""
    root = tmp_path_factory.mktemp("voc")
    for i in range(30):
        picture(root / f"JPEGImages/2007_{i:06d}.jpg")
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[2:5] = i % 20 + 1
        mask[5] = 255
        if i % 3 == 0:
            mask[6:] = 20
        path = root / f"SegmentationClassAug/2007_{i:06d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(path)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    names = [f"2007_{i:06d}\n" for i in range(30)]
    (root / "ImageSets/Segmentation/train.txt").write_text("".join(names[:20]))
    (root / "ImageSets/Segmentation/val.txt").write_text("".join(names[20:]))
    return root


@pytest.fixture(scope="module")
def fss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fss")
    for number, name in enumerate(("ac_wall", "bee_hive", "abacus")):
        for i in (1, 2, 10):
            picture(root / name / f"{i}.jpg")
            mask = np.full((SIDE, SIDE, 3), 127, np.uint8)
            mask[: number + 1] = 128
            Image.fromarray(mask).save(root / name / f"{i}.png")
    (root / "splits").mkdir()
    (root / "splits/trn.txt").write_text("bee_hive\nac_wall\n")
    (root / "splits/test.txt").write_text("abacus\n")
    return root


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    names = ("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "traffic light")
    ids = (1, 2, 3, 4, 5, 6, 7, 10)
    annotations = [
        {"id": 3 * i + k, "image_id": i, "category_id": ids[(i + 2 * k) % 8], "segmentation": [box], "area": 9}
        for i in range(12)
        for k, box in enumerate(([0, 0, 3, 0, 3, 3, 0, 3], [4, 4, 7, 4, 7, 7, 4, 7]))
    ]
    for i in range(12):
        picture(root / f"val2014/{i:03d}.jpg")
    (root / "annotations").mkdir()
    content = {
        "images": [{"id": i, "file_name": f"{i:03d}.jpg", "height": SIDE, "width": SIDE} for i in range(12)],
        "categories": [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)],
        "annotations": annotations,
    }
    (root / "annotations/instances_val2014.json").write_text(json.dumps(content))
    return root


def test_voc_in_its_own_layout(voc: Path) -> None:
    dataset = open_dataset(voc, "val")
    assert (dataset.kind, len(dataset), len(dataset.require_masks())) == ("voc", 10, 21)
    assert dataset.require_masks().names == ("background", *CLASSES)
    mask = dataset.decoded(1).mask  # image 21
    assert mask is not None
    assert sorted(np.unique(mask).tolist()) == [0, 2, 20, 255]
    (voc / "ImageSets/Segmentation/empty.txt").write_text("\n")
    with pytest.raises(UserError, match=r"empty\.txt: lists no images"):
        open_dataset(voc, "empty")
    (voc / "ImageSets/Segmentation/empty.txt").unlink()


def test_pascal_folds_are_blocks_of_five(voc: Path) -> None:
    dataset = open_dataset(voc, "val")
    for number in range(4):
        fold = Fold.parse(f"pascal-5i:{number}")
        assert fold.held_out(dataset) == [5 * number + 1 + i for i in range(5)]
        assert fold.trained(dataset) == [i for i in range(1, 21) if i not in fold.held_out(dataset)]
    question = fold.question(dataset, 11)
    assert question.names == ("others", "diningtable")
    assert question.labels[1].synonyms == ("diningtable",)
    mask = np.array([[0, 3, 255, 4]], np.uint8)
    truth, ignored = fold.target(mask, 21, 3)
    assert truth.tolist() == [[0, 1, 0, 0]]
    assert ignored.tolist() == [[False, False, True, False]]


def test_episodes_walk_the_list_round_and_round(voc: Path) -> None:
    dataset = open_dataset(voc, "val")  # images 20..29 show classes 1..10, 21, 24 and 27 also 20
    found = Fold.parse("pascal-5i:1").episodes(dataset)
    assert [(p.row, p.class_index) for p in found[:5]] == [(5, 6), (6, 7), (7, 8), (8, 9), (9, 10)]
    assert len(found) == 1000
    assert found[5:10] == found[:5]
    with pytest.raises(UserError, match="shows no class of pascal-5i:2"):
        Fold.parse("pascal-5i:2").episodes(dataset)


def test_shipped_lists_are_taken_at_their_word(voc: Path) -> None:
    folder = voc / "splits/val"
    folder.mkdir(parents=True)
    try:
        (folder / "fold0.txt").write_text("2007_000024__05\n2007_000020__01\n")
        found = Fold.parse("pascal-5i:0").episodes(open_dataset(voc, "val"))
        assert [(p.row, p.class_index) for p in found[:3]] == [(4, 5), (0, 1), (4, 5)]
        (folder / "fold0.txt").write_text("2007_000001__05\n")
        with pytest.raises(UserError, match=r"fold0\.txt: '2007_000001__05' names no image"):
            Fold.parse("pascal-5i:0").episodes(open_dataset(voc, "val"))
    finally:
        (folder / "fold0.txt").unlink()


def test_coco_folds_interleave_and_classes_are_drawn_uniformly(coco: Path) -> None:
    dataset = open_dataset(coco, "val2014")
    fold = Fold.parse("coco-20i:3")
    assert fold.held_out(dataset) == [3, 7]
    assert [label.synonyms for label in fold.question(dataset, 7).labels] == [("others",), ("trafficlight",)]
    assert not fold.target(np.array([[255, 7]], np.uint8), 8, 7)[1].any()
    found = fold.episodes(dataset)
    rows = {c: [p.row for p in pairs(dataset, [c])] for c in (3, 7)}
    random = np.random.RandomState(0)
    for pair in found[:50]:
        chosen = random.choice([3, 7], 1, replace=False)[0]
        assert pair == (random.choice(rows[chosen], 1, replace=False)[0], chosen)
    assert {p.class_index for p in found} == {3, 7}


def test_annotations_tell_as_much_as_masks(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(coco, "val2014")
    quick = pairs(dataset, range(8))
    monkeypatch.setattr(type(dataset.masks), "present", lambda self, row: None)
    assert pairs(dataset, range(8)) == quick
    assert len(quick) == 24


def test_fss_classes_are_split(fss: Path) -> None:
    train, test = open_dataset(fss, "train"), open_dataset(fss, "test")
    fold = Fold.parse("fss-1000")
    assert train.require_masks().names == ("background", "bee_hive", "ac_wall")
    assert fold.held_out(test) == fold.trained(test) == [1]
    found = fold.episodes(test)
    assert len(found) == 3
    truth, _ = fold.target(test.decoded(0).mask, 2, 1)  # type: ignore[arg-type]
    assert truth.sum() == 3 * SIDE
    assert [(p.row, p.class_index) for p in pairs(train, [1, 2])] == [(3, 1), (4, 1), (5, 1), (0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pascal5i:0", "did you mean 'pascal-5i'"),
        ("pascal-5i", "name a fold, pascal-5i:0 to pascal-5i:3"),
        ("coco-20i:4", "name a fold"),
        ("x", "there are pascal-5i"),
    ],
)
def test_unknown_protocols(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Fold.parse(text)


def test_protocols_of_the_sheet() -> None:
    assert {name: (p.folds, p.held_out, p.size, p.episodes) for name, p in PROTOCOLS.items()} == {
        "pascal-5i": (4, "blocks", 480, 1000),
        "coco-20i": (4, "interleaved", 480, 1000),
        "fss-1000": (1, "none", 480, None),
        "world": (4, "interleaved", None, 1000),
    }


def test_too_few_classes(write_coco: Callable[..., Path]) -> None:
    dataset = open_dataset(write_coco())
    fold = Fold("wide:0", EpisodeProtocol(folds=50, held_out="interleaved"), 0)
    with pytest.raises(UserError, match="do not make 50 folds"):
        fold.held_out(dataset)
