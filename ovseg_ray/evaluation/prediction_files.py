"""The three files of a predicted image: overlay, id map, COCO RLE."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ovseg_ray.data.sample import encode_mask
from ovseg_ray.evaluation.overlay import overlay
from ovseg_ray.run_directory import write_atomically
from ovseg_ray.segmenter import Result

OVERLAY, IDS = "_overlay.png", "_ids.png"


def write_prediction(directory: Path, name: str, source: Path, image: np.ndarray, result: Result) -> None:
    """Write `NAME_overlay.png`, `NAME_ids.png` and, last, `NAME.json`: where the JSON is, the others are whole.

    Args:
        directory: made where it is missing.
        name: from `output_names`.
        source: the image's file.
        image: (H, W, 3) uint8 RGB.
        result: its prediction.

    Raises:
        UserError: a file cannot be written.
    """
    write_atomically(directory / f"{name}{OVERLAY}", png(overlay(image, result.label_map, result.vocabulary.names)))
    write_atomically(directory / f"{name}{IDS}", encode_mask(result.label_map))
    description = {"image": str(source), **to_coco(result)}
    write_atomically(directory / f"{name}.json", json.dumps(description, indent=1, ensure_ascii=False) + "\n")


def to_coco(result: Result) -> dict[str, Any]:
    """One annotation for each label found, in the form of COCO's results.

    Returns:
        `height`, `width`, `labels` (all that were asked, in order) and `annotations` by area: `label`,
        `category_id` (index into `labels`, the value in the id map), `segmentation` (compressed RLE with `counts` as
        text), `area` in pixels, `bbox` [x, y, width, height], `score` (mean confidence over the area, 0..1).
    """
    height, width = result.label_map.shape
    index, pixels = np.unique(result.label_map, return_counts=True)
    annotations = []
    for label in index[np.argsort(-pixels, kind="stable")].tolist():
        mask = result.label_map == label
        rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        annotations.append(
            {
                "label": result.vocabulary.names[label],
                "category_id": label,
                "segmentation": {"size": [height, width], "counts": rle["counts"].decode("ascii")},
                "area": int(mask.sum()),
                "bbox": [float(value) for value in coco_mask.toBbox(rle)],
                "score": round(float(result.confidence[mask].mean()), 4),
            }
        )
    return {"height": height, "width": width, "labels": list(result.vocabulary.names), "annotations": annotations}


def png(image: Image.Image) -> bytes:
    """PNG bytes of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def is_prediction(path: Path) -> bool:
    """Whether an image is what an earlier prediction left beside its JSON, and not a picture to segment."""
    name = next((path.name.removesuffix(end) for end in (OVERLAY, IDS) if path.name.endswith(end)), None)
    return name is not None and path.with_name(f"{name}.json").is_file()
