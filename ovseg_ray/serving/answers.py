"""From label map and confidence to the parts of an answer."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ovseg_ray.data.masks import ignore_value
from ovseg_ray.evaluation.overlay import overlay
from ovseg_ray.serving import polygons
from ovseg_ray.serving.api import CocoRle, LabelMap, MaskFormat, Parameters, Png, Polygon, Segment
from ovseg_ray.serving.problems import ProblemError
from ovseg_ray.serving.runs import Runs

VOID, ARGMAX = "void", "argmax"


def apply_background(
    label_map: np.ndarray, confidence: np.ndarray, names: tuple[str, ...], parameters: Parameters
) -> np.ndarray:
    """The label map once pixels below the threshold have become background.

    Args:
        label_map: (H, W) uint8 or uint16 indices into `names`.
        confidence: (H, W) float32 in 0..1.
        names: of the labels.
        parameters: threshold and background.

    Returns:
        (H, W) of the same type; `ignore_value(len(names))` where there is no label.

    Raises:
        ProblemError: the background is no label.
    """
    replacement = background_value(names, parameters.background)
    if replacement is None or parameters.threshold == 0:
        return label_map
    return np.where(confidence < parameters.threshold, np.array(replacement, label_map.dtype), label_map)


def background_value(names: tuple[str, ...], background: str) -> int | None:
    """What unconfident pixels hold; None where they keep their label.

    Raises:
        ProblemError: neither "void", "argmax" nor a label.
    """
    if background in names:
        return names.index(background)
    if background == ARGMAX:
        return None
    if background == VOID:
        return ignore_value(len(names))
    raise ProblemError(
        "invalid_parameter", f'background "{background[:100]}" must be "void", "argmax" or one of the labels'
    )


def segments(
    label_map: np.ndarray, confidence: np.ndarray, names: tuple[str, ...], parameters: Parameters
) -> list[Segment]:
    """One segment for each label found, the largest first.

    Args:
        label_map: (H, W) after `apply_background`.
        confidence: (H, W) float32.
        names: of the labels.
        parameters: threshold, top_k and mask_format.
    """
    counts = np.bincount(label_map.ravel(), minlength=len(names))[: len(names)]
    # float64 sums: a mean over millions of pixels in float32 drifts
    sums = np.bincount(label_map.ravel(), confidence.ravel(), minlength=len(names))[: len(names)]
    found: list[Segment] = []
    runs = Runs(label_map)
    for index in np.argsort(-counts, kind="stable").tolist():
        if counts[index] == 0 or len(found) == parameters.top_k:
            break
        score = float(sums[index] / counts[index])
        # with a background, its pixels have been taken out (or put in) one by one already
        if parameters.background == ARGMAX and score < parameters.threshold:
            continue
        rle = runs.encode(index)
        found.append(
            Segment(
                label=names[index],
                index=index,
                score=round(score, 4),
                area=int(counts[index]),
                bbox=tuple(float(value) for value in coco_mask.toBbox(rle)),
                segmentation=_mask(label_map, index, rle, parameters.mask_format),
            )
        )
    return found


def label_map_part(label_map: np.ndarray, names: tuple[str, ...]) -> LabelMap:
    """The label map as a PNG, and what its values mean."""
    void = ignore_value(len(names))
    values = np.flatnonzero(np.bincount(label_map.ravel(), minlength=1)).tolist()
    class_map = {str(value): names[value] for value in values if value < len(names)}
    return LabelMap(png=_text(grey_png(label_map)), class_map=class_map, void=void)


def confidence_part(confidence: np.ndarray) -> Png:
    """Confidence as 8-bit grey."""
    return Png(png=_text(grey_png(np.rint(confidence * 255).astype(np.uint8))))


def overlay_part(image: np.ndarray, label_map: np.ndarray, names: tuple[str, ...]) -> Png:
    """Colours over the picture, with a legend."""
    buffer = io.BytesIO()
    # a third of the time of the default level, a tenth more bytes
    overlay(image, label_map, names).save(buffer, format="PNG", compress_level=1)
    return Png(png=_text(buffer.getvalue()))


def _mask(label_map: np.ndarray, index: int, rle: dict[str, Any], form: MaskFormat) -> CocoRle | Png | list[Polygon]:
    if form == "rle":
        return CocoRle(size=label_map.shape, counts=rle["counts"].decode("ascii"))
    mask = label_map == index
    return polygons.trace(mask) if form == "polygon" else Png(png=_text(grey_png(mask.astype(np.uint8) * 255)))


def grey_png(array: np.ndarray) -> bytes:
    """An (H, W) uint8 or uint16 array as the file of a PNG."""
    buffer = io.BytesIO()
    # zlib looks for runs alone (Z_RLE): of areas that is a quarter fewer bytes than its fastest level, in less time
    Image.fromarray(array).save(buffer, format="PNG", compress_type=3)
    return buffer.getvalue()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
