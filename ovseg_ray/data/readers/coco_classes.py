"""The label set of a COCO-style data set: `classes.json`, or the categories themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg_ray.data.readers.files import class_groups, class_vocabulary, first_repeated, read_json
from ovseg_ray.errors import UserError
from ovseg_ray.vocabulary import Vocabulary

CLASSES = "classes.json"
_NOTHING = frozenset({0, 255})  # in pixel maps: COCO's 0, and 255 of those that follow PASCAL VOC


@dataclass(frozen=True)
class LabelSet:
    """Labels and how annotations name them.

    Attributes:
        vocabulary: in index order.
        index: label index of each category id.
        ignored: values of stuff maps that mean no label.
        unseen: labels held out by the data set.
        parents: label -> parent.
        source: the file that says so.
    """

    vocabulary: Vocabulary
    index: dict[int, int]
    ignored: frozenset[int]
    unseen: tuple[str, ...]
    parents: dict[str, str]
    source: Path


def label_set(
    root: Path, content: Mapping[str, Any] | None, instances: Path | None, stuff: Path | None
) -> LabelSet | None:
    """Labels of a split.

    Args:
        root: of the data set.
        content: of the instances file, where there is one.
        instances: that file.
        stuff: folder of stuff maps, where there is one.

    Returns:
        None where there is nothing to label: captions alone.

    Raises:
        UserError: missing, repeated or contradictory classes.
    """
    if instances is None and stuff is None:
        return None
    categories = _categories(content, instances) if content is not None and instances is not None else []
    if (root / CLASSES).is_file():
        return _from_classes(root / CLASSES, categories)
    if stuff is not None:
        categories = categories + _stuff_categories(root, known={category["id"] for category in categories})
    return _from_categories(categories, instances or root / "annotations", root.name)


def _from_classes(path: Path, categories: list[dict[str, Any]]) -> LabelSet:
    table = read_json(path)
    if "classes" not in table:
        raise UserError(f"{path}: lacks 'classes'; add the list of names in index order")
    vocabulary = class_vocabulary(table["classes"], path, path.parent.name)
    names = vocabulary.names
    ids = table.get("category_ids", table.get("coco_category_ids"))
    if ids is None:
        by_name = {category["name"]: category["id"] for category in categories}
        unknown = next((name for name in names if name not in by_name), None)
        if unknown is not None:
            raise UserError(f"{path}: no category is called '{unknown}'; add 'category_ids', one a class, or mend it")
        ids = [by_name[name] for name in names]
    if not isinstance(ids, list) or len(ids) != len(names) or first_repeated(ids) is not None:
        raise UserError(f"{path}: 'category_ids' must hold one id for each of the {len(names)} classes, all different")
    unseen, parents = class_groups(table, names, path)
    index = {category_id: place for place, category_id in enumerate(ids)}
    if "parents" not in table:
        parents = _parents([c for c in categories if c["id"] in index], {c: names[i] for c, i in index.items()})
    return LabelSet(vocabulary, index, _NOTHING - index.keys(), unseen, parents, path)


def _from_categories(categories: list[dict[str, Any]], source: Path, name: str) -> LabelSet:
    # COCO's stuff maps hold "other" wherever a thing is: no class, and mostly covered by the instances anyway
    other = {c["id"] for c in categories if c["name"] == "other" and c.get("supercategory") == "other"}
    kept = sorted((c for c in categories if c["id"] not in other), key=lambda c: c["id"])
    if not kept:
        raise UserError(f"{source}: has no categories; add them, or a {CLASSES} with classes and category_ids")
    repeated = first_repeated(category["id"] for category in kept)
    if repeated is not None:
        raise UserError(f"{source}: category id {repeated} stands twice; give every category its own id")
    try:
        vocabulary = Vocabulary.of((category["name"] for category in kept), name=name)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    index = {category["id"]: place for place, category in enumerate(kept)}
    parents = _parents(kept, {category["id"]: category["name"] for category in kept})
    return LabelSet(vocabulary, index, (_NOTHING | other) - index.keys(), (), parents, source)


def _parents(categories: list[dict[str, Any]], names: Mapping[int, str]) -> dict[str, str]:
    """Supercategories by label; empty unless every label has one."""
    parents = {names[c["id"]]: c["supercategory"] for c in categories if c.get("supercategory")}
    return parents if len(parents) == len(names) else {}


def _categories(content: Mapping[str, Any], source: Path) -> list[dict[str, Any]]:
    categories = content.get("categories")
    if not isinstance(categories, list):
        raise UserError(f"{source}: lacks the list 'categories'; give a COCO instances file")
    for category in categories:
        if not isinstance(category, dict) or not isinstance(category.get("id"), int) or "name" not in category:
            raise UserError(f"{source}: category {category!r:.80} needs an 'id' and a 'name'; complete it")
    return categories


def _stuff_categories(root: Path, known: set[int]) -> list[dict[str, Any]]:
    """Categories of the stuff annotations that come with COCO's pixel maps."""
    files = [path for path in (root / "annotations").glob("stuff_*.json") if path.is_file()]
    if not files:
        return []
    smallest = min(files, key=lambda path: path.stat().st_size)  # all splits list the same categories
    return [c for c in _categories(read_json(smallest), smallest) if c["id"] not in known]
