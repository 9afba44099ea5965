"""Captions: what they name."""

from __future__ import annotations

import numpy as np

from ovseg_ray.data.world import parent_names, render_scene, world_classes
from ovseg_ray.data.world.classes import STUFF

SCENES = [render_scene(1, i, 48) for i in range(150)]
TABLE = world_classes()


def test_five_captions_a_scene_in_lower_case() -> None:
    for scene in SCENES:
        assert len(scene.captions) == 5
        assert all(c == c.lower().strip() and c for c in scene.captions)


def test_every_object_seen_or_not_is_named_in_its_scene() -> None:
    for scene in SCENES:
        assert all(TABLE[i.class_index].name in scene.captions[1] for i in scene.instances)


def test_unseen_compositions_are_named() -> None:
    text = "\n".join(c for s in SCENES for c in s.captions)
    assert all(c.name in text for c in TABLE if c.unseen)


def test_parents_are_named_in_many_captions() -> None:
    captions = [c for s in SCENES for c in s.captions]
    for parent in parent_names():
        assert sum(parent in c for c in captions) >= 0.02 * len(captions)


def test_no_caption_names_a_composition_or_stuff_that_is_not_there() -> None:
    for scene in SCENES:
        there = {i.class_index for i in scene.instances} | {int(v) - 1 for v in np.unique(scene.stuff) if v}
        absent = [f" {leaf.name}" for k, leaf in enumerate(TABLE) if k not in there]
        assert not [(name, c) for name in absent for c in scene.captions if name in f" {c}"]


def test_every_stuff_is_named() -> None:
    text = "\n".join(c for s in SCENES for c in s.captions)
    assert all(name in text for name in STUFF)


def test_captions_vary() -> None:
    captions = [c for s in SCENES for c in s.captions]
    assert len(set(captions)) > 0.6 * len(captions)
