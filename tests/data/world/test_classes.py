"""The class table: hierarchy and held-out compositions."""

from __future__ import annotations

from collections import Counter

from ovseg_ray.data.world import parent_names, world_classes
from ovseg_ray.data.world.classes import LOOKS, SHAPES

TABLE = world_classes()


def test_enough_of_everything() -> None:
    assert sum(c.kind == "thing" for c in TABLE) >= 40
    assert sum(c.kind == "stuff" for c in TABLE) >= 6
    assert sum(c.unseen for c in TABLE) >= 8
    assert len({c.name for c in TABLE}) == len(TABLE) < 255


def test_things_come_first() -> None:
    kinds = [c.kind for c in TABLE]
    assert kinds == sorted(kinds, reverse=True)


def test_every_leaf_has_a_parent_that_has_several() -> None:
    count = Counter(c.parent for c in TABLE)
    assert set(count) == set(parent_names())
    assert min(count.values()) >= 2
    assert not set(count) & {c.name for c in TABLE}


def test_only_things_are_unseen() -> None:
    assert all(c.kind == "thing" for c in TABLE if c.unseen)


def test_each_look_and_each_shape_is_seen_often() -> None:
    seen = [c for c in TABLE if c.kind == "thing" and not c.unseen]
    looks, shapes = Counter(c.look for c in seen), Counter(c.shape for c in seen)
    assert len(looks) == len(LOOKS)
    assert len(shapes) == len(SHAPES)
    assert min(*looks.values(), *shapes.values()) >= 4
