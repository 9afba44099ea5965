"""COCO annotations of one image drawn as a map of class indices."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from pycocotools import mask as rle

from ovseg_ray.data.masks import check_size, ignore_map, read_index_png, translate
from ovseg_ray.errors import UserError


@dataclass(frozen=True)
class CocoMasks:
    """Reads stuff pixel maps and draws instances over them.

    Attributes:
        classes: class index of each category id.
        ignored: values of the stuff maps that mean no label.
        num_classes: size of the label set.
    """

    classes: Mapping[int, int]
    ignored: frozenset[int]
    num_classes: int

    def __call__(self, row: Mapping[str, Any], height: int, width: int) -> np.ndarray:
        """(height, width) class indices, ignored where nothing is annotated; see `MaskReader`.

        Instances are drawn from the largest "area" to the smallest, equal ones by id, crowd regions included, so
        that small things stay visible on large ones.
        """
        labels = self._stuff(row["mask_path"], height, width)
        if row["instances"] is None:
            return labels
        content = json.loads(row["instances"])
        name = row["image_path"]
        if content["size"] is not None:
            check_size(f"{name} (annotated size)", tuple(content["size"]), (height, width))
        drawn = []
        for annotation in content["annotations"]:
            mask = draw(annotation["segmentation"], height, width, f"{name}: annotation {annotation['id']}")
            area = annotation.get("area")
            drawn.append((-(mask.sum() if area is None else area), annotation["id"], annotation["category_id"], mask))
        for _, _, category, mask in sorted(drawn, key=itemgetter(0, 1)):
            labels[mask] = self.classes[category]
        return labels

    def present(self, row: Mapping[str, Any]) -> set[int] | None:
        """Classes annotated in a row, by its annotations alone; None where only the pixels can tell."""
        if row["mask_path"] is not None or row["instances"] is None:
            return None
        return {self.classes[annotation["category_id"]] for annotation in json.loads(row["instances"])["annotations"]}

    def _stuff(self, path: str | None, height: int, width: int) -> np.ndarray:
        if path is None:
            return ignore_map(height, width, self.num_classes)
        return translate(read_index_png(path, height, width), self.classes, self.ignored, self.num_classes, path)


def draw(segmentation: Any, height: int, width: int, where: str) -> np.ndarray:
    """A COCO segmentation as a mask.

    Args:
        segmentation: polygons [[x, y, x, y, x, y, ...], ...], or RLE {"size", "counts"} with the counts as a list
            or compressed to a string.
        height: of the image, pixels.
        width: of the image, pixels.
        where: what errors call it.

    Returns:
        (height, width) bool.

    Raises:
        UserError: none of these, or RLE for another size than the image.
    """
    if isinstance(segmentation, list):
        for polygon in segmentation:
            # pycocotools takes four numbers for a box, without a word
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                raise UserError(f"{where}: a polygon needs at least three points x, y, x, y, x, y; mend or remove it")
    elif isinstance(segmentation, dict) and "counts" in segmentation and isinstance(segmentation.get("size"), list):
        check_size(where, tuple(segmentation["size"]), (height, width))
    else:
        raise UserError(f"{where}: segmentation is neither polygons nor RLE with size and counts; mend it")
    try:
        return rle.decode(_encoded(segmentation, height, width)).view(bool)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{where}: broken segmentation ({error}); export the annotations again") from error


def _encoded(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    if isinstance(segmentation, list):
        return rle.merge(rle.frPyObjects(segmentation, height, width))
    counts = segmentation["counts"]
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts.encode("ascii")}
    if sum(counts) != height * width:
        raise ValueError(f"counts add up to {sum(counts)}, not {height} x {width}")
    return rle.frPyObjects(segmentation, height, width)
