"""Coarse label sets of the unsupervised protocols (Ji et al. 2019, Cho et al. 2021), as tables over raw mask values."""

from __future__ import annotations

import numpy as np

IGNORED = -1
VOID = 255

COCOSTUFF_27 = (
    "electronic", "appliance", "food", "furniture", "indoor", "kitchen", "accessory", "animal", "outdoor", "person",
    "sports", "vehicle", "ceiling", "floor", "food-stuff", "furniture-stuff", "rawmaterial", "textile", "wall",
    "window", "building", "ground", "plant", "sky", "solid", "structural", "water",
)  # fmt: skip
COCOSTUFF_FIRST_STUFF = 12
CITYSCAPES_FIRST_ID = 7
CITYSCAPES_27 = (
    "road", "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole",
    "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck",
    "bus", "caravan", "trailer", "train", "motorcycle", "bicycle",
)  # fmt: skip
POTSDAM_3 = ("road and car", "building and clutter", "vegetation and tree")

# (coarse class, how many fine thing ids in a row have it)
_THINGS = ((9, 1), (11, 8), (8, 6), (7, 10), (6, 8), (10, 10), (5, 8), (2, 10), (3, 10), (0, 6), (1, 6), (4, 8))
_STUFF = (
    17, 17, 22, 20, 20, 22, 15, 25, 16, 13, 12, 12, 17, 17, 23, 15, 15, 17, 15, 21, 15, 25, 13, 13, 13, 13,
    13, 22, 26, 14, 14, 15, 22, 21, 21, 24, 20, 22, 15, 17, 16, 15, 22, 24, 21, 17, 25, 16, 21, 17, 22, 16,
    21, 21, 25, 21, 26, 21, 24, 20, 17, 14, 21, 26, 15, 23, 20, 21, 24, 15, 24, 22, 25, 15, 20, 17, 17, 22,
    14, 18, 18, 18, 18, 18, 18, 18, 26, 26, 19, 19, 24,
)  # fmt: skip
_CITYSCAPES_COLOURS = (
    (128, 64, 128), (244, 35, 232), (250, 170, 160), (230, 150, 140), (70, 70, 70), (102, 102, 156), (190, 153, 153),
    (180, 165, 180), (150, 100, 100), (150, 120, 90), (153, 153, 153), (153, 153, 153), (250, 170, 30), (220, 220, 0),
    (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100),
    (0, 0, 90), (0, 0, 110), (0, 80, 100), (0, 0, 230), (119, 11, 32), (0, 0, 0),
)  # fmt: skip


def cocostuff_coarse() -> np.ndarray:
    """(182,) int64: one of `COCOSTUFF_27` for each value of a stuffthing mask."""
    things = [coarse for coarse, count in _THINGS for _ in range(count)]
    return np.array([*things, *_STUFF])


def cocostuff_15() -> np.ndarray:
    """(27,) int64: stuff classes of `COCOSTUFF_27` as 0..14, things ignored (-1)."""
    coarse = np.arange(len(COCOSTUFF_27)) - COCOSTUFF_FIRST_STUFF
    return np.where(coarse < 0, IGNORED, coarse)


def cocostuff_3() -> np.ndarray:
    """(3,) int64 members of `COCOSTUFF_27`: sky, plant and ground, in the order of their indices."""
    return np.array([COCOSTUFF_27.index(name) for name in ("sky", "plant", "ground")])


def potsdam_coarse() -> np.ndarray:
    """(6,) int64: one of `POTSDAM_3` for each of the six fine classes."""
    return np.array([0, 1, 2, 2, 0, 1])


def coarse_labels(mask: np.ndarray, table: np.ndarray) -> np.ndarray:
    """(H, W) mask values as int64 entries of `table`; `VOID` and values outside it are ignored (-1)."""
    known = (mask >= 0) & (mask < len(table)) & (mask != VOID)
    return np.where(known, table[np.where(known, mask, 0)], IGNORED).astype(np.int64)


def cityscapes_labels(label_ids: np.ndarray) -> np.ndarray:
    """(H, W) label ids as int64 classes of `CITYSCAPES_27`; ids before the first are ignored (-1)."""
    shifted = label_ids.astype(np.int64) - CITYSCAPES_FIRST_ID
    return np.where((shifted < 0) | (shifted >= len(CITYSCAPES_27)), IGNORED, shifted)


def cityscapes_palette() -> np.ndarray:
    """(28, 3) int64 RGB of `CITYSCAPES_27`, black last."""
    return np.array(_CITYSCAPES_COLOURS)


def pascal_palette(size: int = 64) -> np.ndarray:
    """(size, 3) int64 RGB of the Pascal VOC colour map: bits of the index spread over the channels, high bits first."""
    colours = np.zeros((size, 3), np.int64)
    index = np.arange(size)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours
