"""Writing scenes to disk, one at a time and as a finished world; no Ray."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from ovseg_ray.data.world.annotations import (
    SPLITS,
    caption_rows,
    categories,
    class_table,
    file_stem,
    instance_rows,
    split_of,
)
from ovseg_ray.data.world.scene import render_scene
from ovseg_ray.errors import UserError

VERSION = 1
"""Raised whenever the same (seed, index, size) would give another scene."""
_JPEG: dict[str, Any] = {"quality": 95, "subsampling": 0}


def make_folders(root: Path) -> None:
    """Creates the layout's directories under ``root``."""
    for split in SPLITS:
        (root / split).mkdir(parents=True)
        (root / "annotations" / f"stuff_{split}_pixelmaps").mkdir(parents=True)


def write_scene(root: Path, seed: int, index: int, size: int) -> dict[str, Any]:
    """Renders one scene, writes its image and stuff map.

    Returns:
        JSON-able: ``split``, ``image`` (COCO's image entry), ``instances`` and ``captions``.
    """
    scene, split, stem = render_scene(seed, index, size), split_of(index), file_stem(index)
    Image.fromarray(scene.image).save(root / split / f"{stem}.jpg", **_JPEG)
    Image.fromarray(scene.stuff).save(root / "annotations" / f"stuff_{split}_pixelmaps" / f"{stem}.png")
    height, width = scene.stuff.shape
    return {
        "split": split,
        "image": {"id": index + 1, "file_name": f"{stem}.jpg", "height": height, "width": width},
        "instances": instance_rows(scene, index),
        "captions": caption_rows(scene, index),
    }


def write_annotations(root: Path, rows: list[dict[str, Any]], generator: dict[str, int]) -> None:
    """Writes the JSON files.

    Args:
        root: The world's directory.
        rows: What `write_scene` gave, in order of scene.
        generator: See `class_table`.
    """
    info = {"description": "ovseg_ray generated world", "version": str(generator["version"])}
    for split in SPLITS:
        mine = [r for r in rows if r["split"] == split]
        head = {"info": info, "licenses": [], "images": [r["image"] for r in mine]}
        for kind, extra in (("instances", {"categories": categories()}), ("captions", {})):
            content = head | {"annotations": [a for r in mine for a in r[kind]]} | extra
            (root / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(content))
    (root / "classes.json").write_text(json.dumps(class_table(generator), indent=1))


def is_finished(out: Path, generator: dict[str, int]) -> bool:
    """Whether ``out`` already is the wanted world.

    Raises:
        UserError: If ``out`` exists and holds anything else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / "classes.json").read_text()).get("generator")
    except (OSError, ValueError, AttributeError):
        raise UserError(f"{out} holds something that is not a generated world: name another directory") from None
    if found != generator:
        raise UserError(f"{out} holds another world ({found}, wanted {generator}): delete it or name another directory")
    return True


@contextmanager
def built_aside(out: Path) -> Iterator[Path]:
    """A directory beside ``out`` to build in; renamed to ``out`` at the end, removed if the building fails."""
    aside = out.with_name(f".{out.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        make_folders(aside)
        yield aside
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
