from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg_ray.data import list_splits, open_dataset
from ovseg_ray.data.world.annotations import label_map
from ovseg_ray.data.world.classes import world_classes
from ovseg_ray.data.world.files import make_folders, write_annotations, write_scene
from ovseg_ray.data.world.scene import render_scene
from ovseg_ray.errors import UserError

Write = Callable[..., Path]
CAPTIONS = {"annotations": [{"id": 1, "image_id": 1, "caption": " A dog.\n"}, {"id": 2, "image_id": 9, "caption": "x"}]}


@pytest.mark.parametrize("official", [True, False])
def test_both_layouts_read_alike(write_coco: Write, official: bool) -> None:
    root = write_coco(official=official, captions=CAPTIONS)
    dataset = open_dataset(root)
    assert dataset.kind == "coco"
    assert dataset.split == "train"
    assert list_splits(root) == ["train"]
    assert dataset.index.column("image_id").to_pylist() == ["001", "002", "003"]
    assert dataset.vocabulary is not None
    assert dataset.vocabulary.names == ("cat", "dog")  # by category id, not by place in the file
    assert dataset.parents == {"cat": "animal", "dog": "animal"}
    assert dataset.decoded(0).captions == ("A dog.",)
    assert dataset.decoded(1).captions == ()


def test_images_may_lie_below_images(write_coco: Write) -> None:
    root = write_coco()
    (root / "images").mkdir()
    (root / "train").rename(root / "images/train")
    assert len(open_dataset(root)) == 3


def test_instances_are_drawn_from_large_to_small_and_the_rest_is_ignored(write_coco: Write) -> None:
    dataset = open_dataset(write_coco())
    expected = np.full((6, 8), 255, np.uint8)
    expected[1:4, 1:4] = 1
    expected[2, 2] = 0  # the crowd region, smaller and later
    np.testing.assert_array_equal(dataset.decoded(0).mask, expected)
    empty = dataset.decoded(2).mask
    assert empty is not None
    assert (empty == 255).all()


@pytest.mark.parametrize(
    ("changes", "names", "centre"),
    [
        ({}, ("dog", "cat"), 1),
        ({"unseen": ["cat"], "parents": {"dog": "pet", "cat": "pet"}}, ("dog", "cat"), 1),
        ({"category_ids": None}, ("dog", "cat"), 1),
        ({"category_ids": None, "coco_category_ids": [7, 3]}, ("dog", "cat"), 1),
        ({"classes": ["hound", "puss"]}, ("hound", "puss"), 1),
        ({"classes": ["cow", "dog", "cat"], "category_ids": [1, 7, 3]}, ("cow", "dog", "cat"), 2),
    ],
)
def test_classes_json_gives_order_and_names(
    write_coco: Write, changes: dict[str, Any], names: tuple[str, ...], centre: int
) -> None:
    table = {"classes": ["dog", "cat"], "category_ids": [7, 3]} | changes
    dataset = open_dataset(write_coco(classes={k: v for k, v in table.items() if v is not None}))
    assert dataset.vocabulary is not None
    assert dataset.vocabulary.names == names
    assert dataset.decoded(0).mask[2, 2] == centre  # type: ignore[index]
    assert dataset.unseen == tuple(changes.get("unseen", ()))
    if "parents" in changes:
        assert dataset.parents == changes["parents"]


def test_captions_alone_are_a_data_set(write_coco: Write, coco_content: dict[str, Any]) -> None:
    captions = CAPTIONS | {"images": coco_content["images"]}
    dataset = open_dataset(write_coco(content=None, captions=captions))
    assert dataset.vocabulary is None
    assert dataset.masks is None
    assert dataset.decoded(0).captions == ("A dog.",)
    assert dataset.decoded(0).mask is None


def write_stuff(root: Path, values: np.ndarray) -> None:
    folder = root / "annotations/stuff_train_pixelmaps"
    folder.mkdir()
    for i in (1, 2, 3):
        Image.fromarray(values).save(folder / f"{i:03d}.png")


def test_stuff_lies_under_the_instances(write_coco: Write) -> None:
    root = write_coco(classes={"classes": ["cat", "dog", "grass"], "category_ids": [3, 7, 92]})
    stuff = np.zeros((6, 8), np.uint8)
    stuff[3:], stuff[5, 7] = 92, 255
    write_stuff(root, stuff)
    mask = open_dataset(root).decoded(0).mask
    assert mask is not None
    assert mask[:, 2].tolist() == [255, 1, 0, 1, 2, 2]
    assert mask[5, 7] == 255


def test_stuff_categories_come_from_the_stuff_file_and_other_means_nothing(write_coco: Write) -> None:
    root = write_coco()
    stuff = np.full((6, 8), 183, np.uint8)
    stuff[5] = 92
    write_stuff(root, stuff)
    categories = [
        {"id": 183, "name": "other", "supercategory": "other"},
        {"id": 92, "name": "grass", "supercategory": "plant"},
    ]
    (root / "annotations/stuff_val.json").write_text(json.dumps({"categories": categories}))
    dataset = open_dataset(root)
    assert dataset.vocabulary is not None
    assert dataset.vocabulary.names == ("cat", "dog", "grass")
    assert np.unique(dataset.decoded(2).mask).tolist() == [2, 255]


def test_stuff_outside_the_labels_is_named_when_read(write_coco: Write) -> None:
    root = write_coco()
    write_stuff(root, np.full((6, 8), 150, np.uint8))
    with pytest.raises(UserError, match=r"001\.png: class id 150 is outside the label set of 2 classes"):
        open_dataset(root).decoded(0)


def test_a_missing_stuff_map_is_named(write_coco: Write) -> None:
    root = write_coco()
    write_stuff(root, np.zeros((6, 8), np.uint8))
    (root / "annotations/stuff_train_pixelmaps/002.png").unlink()
    with pytest.raises(UserError, match=r"names stuff map 002\.png, which is not in .*pixelmaps \(1 file is missing"):
        open_dataset(root)


def test_size_in_the_annotations_must_be_the_images(write_coco: Write, coco_content: dict[str, Any]) -> None:
    for image in coco_content["images"]:
        image["height"] = 12
    dataset = open_dataset(write_coco())
    with pytest.raises(UserError, match=r"001\.png \(annotated size\): mask is 8 x 12 but its image is 8 x 6"):
        dataset.decoded(0)


def set_annotation(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["annotations"][1].update({key: value})


def drop(group: str, key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[group][1].pop(key)


@pytest.mark.parametrize(
    ("break_it", "fragment"),
    [
        pytest.param(lambda c: c.pop("images"), "lacks the list 'images'", id="no images key"),
        pytest.param(lambda c: c.update(images=[]), "lists no images", id="no images"),
        pytest.param(lambda c: c.pop("annotations"), "lacks the list 'annotations'", id="no annotations key"),
        pytest.param(lambda c: c.pop("categories"), "lacks the list 'categories'", id="no categories key"),
        pytest.param(lambda c: c.update(categories=[]), "has no categories", id="no categories"),
        pytest.param(drop("images", "file_name"), "entry 1 of 'images' lacks 'file_name'", id="no file name"),
        pytest.param(drop("annotations", "category_id"), "entry 1 of 'annotations' lacks 'category_id'", id="no id"),
        pytest.param(set_annotation("category_id", "cat"), "has 'cat' as 'category_id'", id="category by name"),
        pytest.param(set_annotation("area", "big"), "annotation 11 has the area 'big'", id="area in words"),
        pytest.param(lambda c: c["images"].append(5), "entry 3 of 'images' lacks 'id'", id="number for an image"),
        pytest.param(lambda c: c["images"][0].update(id=1), "image id 1 stands twice", id="repeated image id"),
        pytest.param(
            lambda c: c["images"][0].update(file_name="001.png"), "image 001.png is listed twice", id="repeated file"
        ),
        pytest.param(set_annotation("id", 10), "annotation id 10 stands twice", id="repeated annotation"),
        pytest.param(set_annotation("image_id", 99), "annotation 11 is of image id 99", id="unknown image"),
        pytest.param(
            set_annotation("category_id", 5),
            "annotation 11 has category id 5, outside the label set of 2 classes",
            id="unknown category",
        ),
        pytest.param(set_annotation("segmentation", []), "annotation 11 has no segmentation", id="no segmentation"),
        pytest.param(lambda c: c["categories"][0].update(name="cat"), "label 'cat' stands twice", id="repeated name"),
        pytest.param(lambda c: c["categories"][0].update(id=3), "category id 3 stands twice", id="repeated category"),
        pytest.param(lambda c: c["categories"][0].pop("name"), "needs an 'id' and a 'name'", id="nameless category"),
        pytest.param(
            lambda c: [image.update(file_name="x" + image["file_name"]) for image in c["images"]],
            "names image x002.png, which is not in",
            id="missing images",
        ),
    ],
)
def test_bad_annotations_are_one_line_that_names_the_file(
    write_coco: Write, coco_content: dict[str, Any], break_it: Callable[[dict[str, Any]], Any], fragment: str
) -> None:
    break_it(coco_content)
    root = write_coco()
    with pytest.raises(UserError) as caught:
        open_dataset(root)
    message = str(caught.value)
    assert message.startswith(f"{root}/annotations/instances_train.json: ")
    assert fragment in message
    assert "\n" not in message


def test_missing_images_are_counted(write_coco: Write) -> None:
    root = write_coco()
    (root / "train/002.png").unlink()
    (root / "train/001.png").unlink()
    with pytest.raises(UserError, match=r"names image 002\.png, .* \(2 files are missing\); add what is missing"):
        open_dataset(root)


@pytest.mark.parametrize(
    ("table", "fragment"),
    [
        ({}, "lacks 'classes'"),
        ({"classes": "dog, cat"}, "'classes' must be a list of names"),
        ({"classes": []}, "'classes' must be a list of names"),
        ({"classes": ["dog", "dog"], "category_ids": [7, 3]}, "label 'dog' stands twice"),
        ({"classes": ["dog", ""], "category_ids": [7, 3]}, "label '' is empty"),
        ({"classes": ["dog", "cat"], "category_ids": [7]}, "'category_ids' must hold one id for each of the 2 classes"),
        ({"classes": ["dog", "cat"], "category_ids": [7, 7]}, "all different"),
        ({"classes": ["dog", "cow"]}, "no category is called 'cow'"),
        ({"classes": ["dog", "cat"], "unseen": ["cow"]}, "'unseen' names 'cow', which is not in 'classes'"),
        ({"classes": ["dog", "cat"], "unseen": "cat"}, "'unseen' must be a list"),
        ({"classes": ["dog", "cat"], "parents": ["pet"]}, "'parents' must map"),
        ({"classes": ["dog", "cat"], "parents": {"cow": "pet"}}, "'parents' names 'cow'"),
    ],
)
def test_bad_class_tables_are_named(write_coco: Write, table: dict[str, Any], fragment: str) -> None:
    root = write_coco(classes=table)
    with pytest.raises(UserError) as caught:
        open_dataset(root)
    assert str(caught.value).startswith(f"{root}/classes.json: ")
    assert fragment in str(caught.value)


def test_instances_outside_the_class_table_are_an_error(write_coco: Write) -> None:
    root = write_coco(classes={"classes": ["dog"], "category_ids": [7]})
    with pytest.raises(
        UserError, match=r"annotation 11 has category id 3, outside .* add the class to .*classes\.json"
    ):
        open_dataset(root)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ('{"images": [', "broken JSON at line 1, column 13"),
        ("", "broken JSON at line 1, column 1"),
        ("[1]", "holds a JSON list, must hold an object"),
        (b"\xff\xfe\xfa", "not a JSON text file"),
    ],
)
def test_broken_json_is_named_with_its_place(write_coco: Write, text: str | bytes, fragment: str) -> None:
    root = write_coco()
    path = root / "annotations/instances_train.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        open_dataset(root)
    assert str(caught.value).startswith(f"{path}: {fragment}")


def test_no_images_folder(write_coco: Write) -> None:
    root = write_coco()
    (root / "train").rename(root / "elsewhere")
    with pytest.raises(UserError, match=r"no images of split 'train'; put them in .*/train or .*/images/train"):
        open_dataset(root)


def test_the_generated_world_reads_back_as_it_was_drawn(tmp_path: Path) -> None:
    root, size, seed = tmp_path / "world", 64, 5
    make_folders(root)
    rows = [write_scene(root, seed, i, size) for i in range(10)]
    write_annotations(root, rows, {"version": 1, "scenes": 10, "seed": seed, "size": size})
    assert list_splits(root) == ["train", "val"]
    for split, scenes in (("train", [0, 1, 2, 3, 5, 6, 7, 8]), ("val", [4, 9])):
        dataset = open_dataset(root, split)
        assert dataset.vocabulary is not None
        assert dataset.vocabulary.names == tuple(c.name for c in world_classes())
        assert set(dataset.unseen) == {c.name for c in world_classes() if c.unseen}
        assert dataset.parents == {c.name: c.parent for c in world_classes()}
        assert len(dataset) == len(scenes)
        for i, scene_index in enumerate(scenes):
            scene = render_scene(seed, scene_index, size)
            sample = dataset.decoded(i)
            np.testing.assert_array_equal(sample.mask, label_map(scene, split))
            assert sample.captions == tuple(scene.captions)
