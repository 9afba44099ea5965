"""A prediction as a picture for people: colours over the image, outlines, a legend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ovseg_ray.evaluation.palette import palette

SMALLEST = 384  # pictures with a shorter long side are enlarged, or nobody could see the outlines
LEGEND_LABELS = 24
OPACITY = 0.55
_INK, _PAPER = (32, 33, 36), (255, 255, 255)


def overlay(
    image: np.ndarray, label_map: np.ndarray, names: Sequence[str], *, legend: bool = True, opacity: float = OPACITY
) -> Image.Image:
    """Lay the colours of labels over an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        label_map: (H, W) indices into `names`; higher ones (ignored pixels) stay uncoloured.
        names: of all labels; a label's colour is that of its index.
        legend: add a panel that names the labels found, by area.
        opacity: of the colours.

    Returns:
        RGB, enlarged by a whole factor where the image is small, with the legend at its right.
    """
    factor = max(1, SMALLEST // max(label_map.shape))
    if factor > 1:
        image = np.asarray(Image.fromarray(image).resize((image.shape[1] * factor, image.shape[0] * factor)))
        label_map = label_map.repeat(factor, axis=0).repeat(factor, axis=1)
    known = label_map < len(names)
    colour = palette(len(names))[np.where(known, label_map, 0)]
    mixed = image * (1 - opacity) + colour * opacity
    picture = np.where(known[..., None], mixed, image).round().astype(np.uint8)
    picture[boundaries(label_map, max(1, round(min(label_map.shape) / 400)))] = _PAPER
    shown = Image.fromarray(picture)
    return _beside(shown, _legend(label_map, names, shown.height)) if legend else shown


def colour_layer(label_map: np.ndarray, labels: int, long_side: int = SMALLEST) -> Image.Image:
    """The colours and outlines alone, transparent where pixels are ignored: to be laid over an image by a viewer.

    Args:
        label_map: (H, W) indices; `labels` and above are ignored pixels.
        labels: how many there are.
        long_side: of the result, about; small maps are enlarged by a whole factor, large ones are thinned.

    Returns:
        RGBA.
    """
    factor = long_side / max(label_map.shape)
    factor = max(1, round(factor)) if factor > 0.75 else factor
    height, width = (max(1, round(side * factor)) for side in label_map.shape)
    rows = np.arange(height) * label_map.shape[0] // height
    columns = np.arange(width) * label_map.shape[1] // width
    label_map = label_map[rows[:, None], columns]
    layer = np.zeros((height, width, 4), np.uint8)
    known = label_map < labels
    layer[known, :3] = palette(labels)[label_map[known]]
    layer[known, 3] = 255
    layer[boundaries(label_map)] = (*_PAPER, 255)
    return Image.fromarray(layer)


def boundaries(label_map: np.ndarray, width: int = 1) -> np.ndarray:
    """(H, W) bool: pixels within `width` above or left of a change of label."""
    edge = np.zeros(label_map.shape, bool)
    for step in range(1, width + 1):
        edge[:-step] |= label_map[:-step] != label_map[step:]
        edge[:, :-step] |= label_map[:, :-step] != label_map[:, step:]
    return edge


def _legend(label_map: np.ndarray, names: Sequence[str], height: int) -> Image.Image:
    index, pixels = np.unique(label_map[label_map < len(names)], return_counts=True)
    order = np.argsort(-pixels, kind="stable")
    colours = palette(len(names))
    size = int(np.clip(height / 26, 13, 28))
    line = round(size * 1.6)
    # what does not fit beside the image is summed up in the last line
    room = max(1, min(LEGEND_LABELS, (height - size) // line))
    shown = order if len(order) <= room else order[: max(1, room - 1)]
    rows = [(names[index[i]], pixels[i] / label_map.size, tuple(map(int, colours[index[i]]))) for i in shown]
    texts = [f"{_short(name)}  {_percent(share)}" for name, share, _ in rows]
    if len(shown) < len(order):
        texts.append(f"and {len(order) - len(shown)} more")
    font = _font(size)
    width = round(max((font.getlength(text) for text in texts), default=0)) + 3 * size
    panel = Image.new("RGB", (width, max(height, size + line * len(texts))), _PAPER)
    draw = ImageDraw.Draw(panel)
    for i, text in enumerate(texts):
        top = size // 2 + i * line
        if i < len(rows):
            draw.rounded_rectangle((size // 2, top, size // 2 + size, top + size), radius=size // 4, fill=rows[i][2])
        draw.text((2 * size, top + size / 2), text, fill=_INK, font=font, anchor="lm")
    return panel


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    joined = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), _PAPER)
    joined.paste(left, (0, 0))
    joined.paste(right, (left.width, 0))
    return joined


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"


def _short(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:31]}…"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib brings DejaVu Sans, which knows far more alphabets than Pillow's own font
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
