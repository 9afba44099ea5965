"""A scene in the COCO formats: instances, captions, stuff pixel map, and the files' class table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from ovseg_ray.data.world.classes import IGNORE_INDEX, category_id, world_classes
from ovseg_ray.data.world.scene import Instance, Scene

SPLITS = ("train", "val")


def split_of(index: int) -> str:
    """Every fifth scene is validation, whatever the number of scenes."""
    return "val" if index % 5 == 4 else "train"


def file_stem(index: int) -> str:
    """COCO's twelve-digit file name of a scene (image ids start at 1)."""
    return f"{index + 1:012d}"


def labelled(instance: Instance, split: str) -> bool:
    """Whether an object carries a mask in a split: the unseen ones only in validation."""
    return split != "train" or not world_classes()[instance.class_index].unseen


def instance_rows(scene: Scene, index: int) -> list[dict[str, Any]]:
    """The labelled objects as annotations of ``instances_*.json``, ids unique over all scenes.

    Returns:
        Dictionaries with a compressed RLE (``counts`` as a string) of the visible part.
    """
    rows = []
    for k, instance in enumerate(scene.instances):
        if not labelled(instance, split_of(index)):
            continue
        code = rle.encode(np.asfortranarray(instance.mask.view(np.uint8)))
        rows.append(
            {
                "id": (index + 1) * 100 + k,
                "image_id": index + 1,
                "category_id": category_id(instance.class_index),
                "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
                "area": int(rle.area(code)),
                "bbox": [float(v) for v in rle.toBbox(code)],
                "iscrowd": 0,
            }
        )
    return rows


def caption_rows(scene: Scene, index: int) -> list[dict[str, Any]]:
    """The captions as annotations of ``captions_*.json``."""
    return [
        {"id": (index + 1) * 100 + k, "image_id": index + 1, "caption": text} for k, text in enumerate(scene.captions)
    ]


def label_map(scene: Scene, split: str) -> NDArray[np.uint8]:
    """What a reader of the written files must arrive at.

    Returns:
        (H, W) uint8 of class indices; `IGNORE_INDEX` where the split leaves an object unlabelled.
    """
    labels = np.where(scene.stuff > 0, scene.stuff - 1, IGNORE_INDEX).astype(np.uint8)
    for instance in scene.instances:
        if labelled(instance, split):
            labels[instance.mask] = instance.class_index
    return labels


def categories() -> list[dict[str, Any]]:
    """The ``categories`` of ``instances_*.json``: things, then stuff."""
    return [
        {"id": category_id(k), "name": c.name, "supercategory": c.parent, "isthing": int(c.kind == "thing")}
        for k, c in enumerate(world_classes())
    ]


def class_table(generator: dict[str, int]) -> dict[str, Any]:
    """The contents of ``classes.json``.

    Args:
        generator: What identifies the world: version, scenes, seed, size.
    """
    table = world_classes()
    return {
        "kind": "world",
        "classes": [c.name for c in table],
        "category_ids": [category_id(k) for k in range(len(table))],
        "ignore_index": IGNORE_INDEX,
        "parents": {c.name: c.parent for c in table},
        "unseen": [c.name for c in table if c.unseen],
        "generator": generator,
    }
