"""COCO-style data sets, in COCO's own layout or with one folder a split.

```
annotations/instances_SPLIT.json   annotations/captions_SPLIT.json   annotations/stuff_SPLIT_pixelmaps/*.png
SPLIT/*.jpg or images/SPLIT/*.jpg

SPLIT/instances.json   SPLIT/captions.json   SPLIT/images/*.jpg
```

Instances or captions may be missing, and so may the stuff maps. `classes.json` beside them is optional:
{"classes": [names in index order], "category_ids": [their COCO ids], "unseen": [...], "parents": {...}}. Without it
the labels are the categories in order of their ids, and their supercategories the parents.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from ovseg_ray.data.dataset import INDEX_SCHEMA, DataSet
from ovseg_ray.data.readers.coco_classes import LabelSet, label_set
from ovseg_ray.data.readers.coco_masks import CocoMasks
from ovseg_ray.data.readers.files import collector_paused, first_repeated, image_ids, read_json, require_files
from ovseg_ray.errors import UserError

SPLIT_FILES = ("instances.json", "captions.json")
_OFFICIAL = re.compile(r"(?:instances|captions)_(.+)\.json")
_KEPT = ("id", "category_id", "segmentation", "area")  # of an annotation: what drawing it takes

_FORMS: dict[str, Any] = {
    "id": (int, str),
    "image_id": (int, str),
    "category_id": int,
    "file_name": str,
    "caption": str,
}


@dataclass(frozen=True)
class _Files:
    """Where one split lies; None: not there."""

    images: Path
    instances: Path | None
    captions: Path | None
    stuff: Path | None

    @property
    def listing(self) -> Path:
        """The file whose "images" are the split's."""
        found = self.instances or self.captions
        assert found is not None, "a split is recognised by one of them"
        return found


def recognises(root: Path) -> bool:
    """Whether there are annotations of either layout."""
    return bool(splits(root))


def splits(root: Path) -> list[str]:
    """Splits that have instances or captions, sorted."""
    annotations = root / "annotations"
    matches = [_OFFICIAL.fullmatch(entry.name) for entry in annotations.iterdir()] if annotations.is_dir() else []
    folders = [path.parent.name for name in SPLIT_FILES for path in root.glob(f"*/{name}")]
    return sorted({match[1] for match in matches if match} | set(folders))


@collector_paused()
def read(root: Path, split: str) -> DataSet:
    """One split; no image is opened.

    Raises:
        UserError: broken or incomplete JSON, images or stuff maps that do not exist, annotations of unknown images
            or categories, repeated ids.
    """
    files = _locate(root, split)
    content = read_json(files.listing)
    images = _images(content, files.listing)
    names = [image["file_name"] for image in images]
    require_files(files.images, names, files.listing)
    labels = label_set(root, content if files.instances else None, files.instances, files.stuff)
    instances = _instances(content, images, labels, files.instances) if files.instances and labels else None
    stuff = _stuff_maps(names, files)
    captions = _captions(content, images, files)
    columns = zip(image_ids(names, files.listing), images, stuff, strict=True)
    rows: list[dict[str, Any]] = [
        {
            "image_id": image_id,
            "image_path": f"{files.images}/{image['file_name']}",
            "mask_path": mask,
            "instances": instances and instances[image["id"]],
            "captions": captions.get(image["id"], []),
        }
        for image_id, image, mask in columns
    ]
    rows.sort(key=lambda row: row["image_id"])
    index = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
    if labels is None:
        return DataSet(root, split, "coco", index, vocabulary=None, masks=None)
    masks = CocoMasks(labels.index, labels.ignored, len(labels.vocabulary))
    return DataSet(root, split, "coco", index, labels.vocabulary, masks, labels.unseen, labels.parents)


def _locate(root: Path, split: str) -> _Files:
    annotations, folder = root / "annotations", root / split
    official = (annotations / f"instances_{split}.json", annotations / f"captions_{split}.json")
    if any(path.is_file() for path in official):
        instances, captions = official
        places = [folder, root / "images" / split]
    else:
        instances, captions = folder / "instances.json", folder / "captions.json"
        places = [folder / "images"]
    pixelmaps = [place / f"stuff_{split}_pixelmaps" for place in (annotations, root)]
    images = next((place for place in places if place.is_dir()), None)
    if images is None:
        raise UserError(f"{root}: no images of split '{split}'; put them in {' or '.join(map(str, places))}")
    return _Files(
        images,
        instances if instances.is_file() else None,
        captions if captions.is_file() else None,
        next((place for place in pixelmaps if place.is_dir()), None),
    )


def _images(content: Mapping[str, Any], source: Path) -> list[dict[str, Any]]:
    images = _entries(content, "images", ("id", "file_name"), source)
    if not images:
        raise UserError(f"{source}: lists no images; 'images' must hold at least one")
    repeated = first_repeated(image["id"] for image in images)
    if repeated is not None:
        raise UserError(f"{source}: image id {repeated} stands twice; give every image its own id")
    return images


def _instances(
    content: Mapping[str, Any], images: list[dict[str, Any]], labels: LabelSet, source: Path
) -> dict[Any, str]:
    """The "instances" column by image id."""
    grouped: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in images}
    annotations = _entries(content, "annotations", ("id", "image_id", "category_id"), source)
    repeated = first_repeated(annotation["id"] for annotation in annotations)
    if repeated is not None:
        raise UserError(f"{source}: annotation id {repeated} stands twice; give every annotation its own id")
    for annotation in annotations:
        where = f"{source}: annotation {annotation['id']}"
        if annotation["image_id"] not in grouped:
            raise UserError(f"{where} is of image id {annotation['image_id']}, which 'images' does not list; add it")
        if annotation["category_id"] not in labels.index:
            raise UserError(
                f"{where} has category id {annotation['category_id']}, outside the label set of "
                f"{len(labels.vocabulary)} classes; add the class to {labels.source}, or remove the annotation"
            )
        if not annotation.get("segmentation"):
            raise UserError(f"{where} has no segmentation; add its mask, or remove the annotation")
        if not isinstance(annotation.get("area", 0), (int, float)):
            raise UserError(f"{where} has the area {annotation['area']!r:.40}; give pixels, or leave it out")
        grouped[annotation["image_id"]].append({key: annotation[key] for key in _KEPT if key in annotation})
    return {image["id"]: json.dumps({"size": _size(image), "annotations": grouped[image["id"]]}) for image in images}


def _size(image: Mapping[str, Any]) -> list[int] | None:
    return [image["height"], image["width"]] if {"height", "width"} <= image.keys() else None


def _stuff_maps(names: list[str], files: _Files) -> list[str | None]:
    if files.stuff is None:
        return [None] * len(names)
    maps = [PurePosixPath(name).with_suffix(".png").as_posix() for name in names]
    require_files(files.stuff, maps, files.listing, what="stuff map")
    return [str(files.stuff / name) for name in maps]


def _captions(content: Mapping[str, Any], images: list[dict[str, Any]], files: _Files) -> dict[Any, list[str]]:
    """Captions by image id; those of images that the split does not list are left out."""
    if files.captions is None:
        return {}
    whole = content if files.captions == files.listing else read_json(files.captions)
    listed = {image["id"] for image in images}
    grouped: dict[Any, list[str]] = defaultdict(list)
    for annotation in _entries(whole, "annotations", ("image_id", "caption"), files.captions):
        if annotation["image_id"] in listed:
            grouped[annotation["image_id"]].append(annotation["caption"].strip())
    return grouped


def _entries(content: Mapping[str, Any], key: str, needed: tuple[str, ...], source: Path) -> list[dict[str, Any]]:
    """A list of objects under `key`, each with the keys `needed`."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise UserError(f"{source}: lacks the list '{key}'; give a COCO file with images and annotations")
    for number, entry in enumerate(entries):
        for name in needed:
            value = entry.get(name) if isinstance(entry, dict) else None
            if not isinstance(value, _FORMS[name]):
                wrong = "lacks" if value is None else f"has {value!r:.40} as"
                raise UserError(f"{source}: entry {number} of '{key}' {wrong} '{name}'; mend that entry")
    return entries
