"""Parts of an answer as arrays. Needs NumPy and Pillow; masks in COCO's RLE need pycocotools as well."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from ovseg_ray.errors import UserError
from ovseg_ray.serving.api import CocoRle, Png, Segment, SegmentResponse

if TYPE_CHECKING:
    import numpy as np


def label_map(answer: SegmentResponse) -> np.ndarray:
    """(H, W) uint8 (uint16 over 255 labels): the number of the label of each pixel, `answer.label_map.void` for none.

    Raises:
        UserError: it was not asked for.
    """
    if answer.label_map is None:
        raise UserError('the answer holds no label map; ask with parts=["label_map"]')
    return _decode(answer.label_map)


def confidence(answer: SegmentResponse) -> np.ndarray:
    """(H, W) float32 in 0..1, in steps of 1/255.

    Raises:
        UserError: it was not asked for.
    """
    if answer.confidence is None:
        raise UserError('the answer holds no confidence; ask with parts=["confidence"]')
    found: np.ndarray = _decode(answer.confidence).astype("float32") / 255
    return found


def mask(segment: Segment) -> np.ndarray:
    """(H, W) bool: where the label of a segment is.

    Raises:
        UserError: a segment in polygons, which have no size of their own.
    """
    found = segment.segmentation
    if isinstance(found, Png):
        return _decode(found) > 0
    if isinstance(found, CocoRle):
        from pycocotools import mask as coco_mask

        rle = {"size": list(found.size), "counts": found.counts.encode("ascii")}
        decoded: np.ndarray = coco_mask.decode(rle).astype(bool)
        return decoded
    raise UserError('the segment is made of polygons; ask with mask_format="rle" or "png"')


def _decode(part: Png) -> np.ndarray:
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(part.png))) as image:
        return np.asarray(image)
