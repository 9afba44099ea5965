"""Pictures that the page offers: scenes of the generated world, drawn when they are first asked for."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from ovseg_ray.data.world import render_scene, world_classes
from ovseg_ray.data.world.classes import STUFF, category_id, stuff_index

SEED = 7
SCENES = (0, 5, 7, 15, 23, 26)  # chosen for variety, by eye
SIDE = 96  # pixels: near what models of the demo were trained on


@dataclass(frozen=True)
class Sample:
    """One picture.

    Attributes:
        png: its file.
        caption: what it shows.
        labels: what it shows, grounds first, and one more ground.
    """

    png: bytes
    caption: str
    labels: tuple[str, ...]


@cache
def sample(number: int) -> Sample:
    """
    Args:
        number: 0..`len(SCENES)` - 1.
    """
    scene = render_scene(SEED, SCENES[number], SIDE)
    shown = set(np.unique(scene.stuff).tolist())
    grounds = {name: category_id(stuff_index(index)) in shown for index, name in enumerate(STUFF)}
    absent = [name for name, is_shown in grounds.items() if not is_shown]
    things = [world_classes()[instance.class_index].name for instance in scene.instances]
    shown_names = [*(name for name, is_shown in grounds.items() if is_shown), *dict.fromkeys(things)]
    buffer = io.BytesIO()
    Image.fromarray(scene.image).save(buffer, format="PNG")
    return Sample(buffer.getvalue(), ", ".join(shown_names), (*shown_names, absent[number % len(absent)]))
