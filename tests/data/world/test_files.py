"""Files in the COCO layout, without Ray."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from ovseg_ray.data.world import render_scene, world_classes
from ovseg_ray.data.world.annotations import file_stem, instance_rows, label_map, split_of
from ovseg_ray.data.world.files import VERSION, built_aside, is_finished, write_annotations, write_scene
from ovseg_ray.errors import UserError

SCENES, SEED, SIZE = 50, 0, 48
GENERATOR = {"version": VERSION, "scenes": SCENES, "seed": SEED, "size": SIZE}
TABLE = world_classes()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("files") / "world"
    with built_aside(out) as aside:
        write_annotations(aside, [write_scene(aside, SEED, i, SIZE) for i in range(SCENES)], GENERATOR)
    return out


@pytest.fixture(scope="module", params=["train", "val"])
def split(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def coco(world: Path, split: str) -> COCO:
    return COCO(str(world / "annotations" / f"instances_{split}.json"))


def test_a_fifth_is_validation(world: Path) -> None:
    assert len(list((world / "train").iterdir())) == 40
    assert len(list((world / "val").iterdir())) == 10


def test_images_are_found_under_their_names(coco: COCO, world: Path, split: str) -> None:
    for image in coco.loadImgs(coco.getImgIds()):
        with Image.open(world / split / image["file_name"]) as file:
            assert file.size == (image["width"], image["height"]) == (SIZE, SIZE)


def test_masks_and_pixel_maps_give_the_labels_back(coco: COCO, world: Path, split: str) -> None:
    for image in coco.getImgIds():
        stuff = np.asarray(Image.open(world / "annotations" / f"stuff_{split}_pixelmaps" / f"{image:012d}.png"))
        assert stuff.dtype == np.uint8
        labels = np.where(stuff > 0, stuff - 1, 255).astype(np.uint8)
        for annotation in coco.imgToAnns[image]:
            mask = coco.annToMask(annotation).astype(bool)
            assert mask.sum() == annotation["area"]
            assert (labels[mask] == 255).all()
            labels[mask] = annotation["category_id"] - 1
        np.testing.assert_array_equal(labels, label_map(render_scene(SEED, image - 1, SIZE), split))


def test_unseen_classes_carry_a_mask_in_validation_only(coco: COCO, split: str) -> None:
    labelled = {TABLE[a["category_id"] - 1].unseen for a in coco.anns.values()}
    assert labelled == ({False} if split == "train" else {False, True})


def test_an_unseen_object_is_unlabelled_in_train_and_labelled_in_val() -> None:
    index = next(i for i in range(99) if any(TABLE[o.class_index].unseen for o in render_scene(0, i, 48).instances))
    scene = render_scene(0, index, 48)
    unseen = np.any([o.mask for o in scene.instances if TABLE[o.class_index].unseen], axis=0)
    np.testing.assert_array_equal(label_map(scene, "train") == 255, unseen)
    assert (label_map(scene, "val") != 255).all()


def test_categories_carry_the_hierarchy(coco: COCO) -> None:
    found = [(c["id"], c["name"], c["supercategory"]) for c in coco.loadCats(coco.getCatIds())]
    assert found == [(k + 1, c.name, c.parent) for k, c in enumerate(TABLE)]


def test_captions_have_cocos_form(world: Path, split: str) -> None:
    captions = json.loads((world / "annotations" / f"captions_{split}.json").read_text())
    images = {i["id"] for i in captions["images"]}
    assert {a["image_id"] for a in captions["annotations"]} == images
    assert len({a["id"] for a in captions["annotations"]}) == 5 * len(images)


def test_class_table_file(world: Path) -> None:
    table = json.loads((world / "classes.json").read_text())
    assert table["kind"] == "world"
    assert table["classes"] == [c.name for c in TABLE]
    assert table["category_ids"] == list(range(1, len(TABLE) + 1))
    assert table["parents"] == {c.name: c.parent for c in TABLE}
    assert table["unseen"] == [c.name for c in TABLE if c.unseen]
    assert table["ignore_index"] == 255
    assert table["generator"] == GENERATOR


def test_annotation_ids_are_unique(coco: COCO) -> None:
    assert len(coco.anns) == len(coco.dataset["annotations"])


def test_boxes_hold_their_masks() -> None:
    scene = render_scene(0, 4, 48)
    for row, instance in zip(instance_rows(scene, 4), scene.instances, strict=True):
        ys, xs = np.nonzero(instance.mask)
        assert row["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]


@pytest.mark.parametrize(("index", "stem", "split"), [(0, "000000000001", "train"), (4, "000000000005", "val")])
def test_names(index: int, stem: str, split: str) -> None:
    assert file_stem(index) == stem
    assert split_of(index) == split


def test_a_finished_world_is_recognised(world: Path, tmp_path: Path) -> None:
    assert is_finished(world, GENERATOR)
    assert not is_finished(tmp_path / "none", GENERATOR)
    assert not is_finished(tmp_path, GENERATOR)


@pytest.mark.parametrize("change", [{"seed": 1}, {"scenes": 51}, {"size": 96}, {"version": -1}])
def test_another_world_is_refused(world: Path, change: dict[str, int]) -> None:
    with pytest.raises(UserError, match="another world"):
        is_finished(world, GENERATOR | change)


@pytest.mark.parametrize("content", [None, "not json", "[]"])
def test_anything_else_is_refused(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    if content is not None:
        (tmp_path / "classes.json").write_text(content)
    with pytest.raises(UserError, match="not a generated world"):
        is_finished(tmp_path, GENERATOR)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_failed_building_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), built_aside(tmp_path / "world"):
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []
