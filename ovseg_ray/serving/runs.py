"""All masks of a label map as COCO's run-length encoding, in one pass over it however many labels there are."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


class Runs:
    """Runs of equal labels down the columns, which is the order of COCO's masks.

    Args:
        label_map: (H, W) of an unsigned integer type.
    """

    def __init__(self, label_map: np.ndarray) -> None:
        self._size = label_map.shape
        columns = label_map.ravel(order="F")
        starts = np.concatenate([[0], np.flatnonzero(columns[1:] != columns[:-1]) + 1])
        values = columns[starts]
        order = np.argsort(values, kind="stable")
        self._values = values[order]
        self._starts = starts[order]
        self._ends = np.append(starts[1:], columns.size)[order]

    def encode(self, index: int) -> dict[str, Any]:
        """The mask of a label as `pycocotools.mask.encode` gives it: `size` and compressed `counts`."""
        first, last = np.searchsorted(self._values, [index, index + 1])
        starts, ends = self._starts[first:last], self._ends[first:last]
        # zeros and ones in turn: the gap before each run, and the run; the rest are zeros
        counts = np.empty(2 * len(starts) + 1, np.uint32)
        counts[0::2] = np.append(starts, self._size[0] * self._size[1]) - np.insert(ends, 0, 0)
        counts[1::2] = ends - starts
        found: dict[str, Any] = coco_mask.frPyObjects(
            {"size": self._size, "counts": counts if counts[-1] else counts[:-1]}, *self._size
        )
        return found
