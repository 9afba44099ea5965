"""Scenes: determinism, and masks that fit together."""

from __future__ import annotations

import numpy as np
import pytest

from ovseg_ray.data.world import render_scene, world_classes
from ovseg_ray.data.world.classes import LOOKS, SHAPES, STUFF, stuff_index, thing_index
from ovseg_ray.data.world.grounds import paint_stuff
from ovseg_ray.data.world.looks import paint_look
from ovseg_ray.data.world.regions import draw_regions
from ovseg_ray.data.world.shapes import REACH, signed_distance

SCENES = [render_scene(3, i) for i in range(60)]


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    for index in (5, 2, 5):
        again = render_scene(3, index)
        np.testing.assert_array_equal(again.image, SCENES[index].image)
        np.testing.assert_array_equal(again.stuff, SCENES[index].stuff)
        assert again.captions == SCENES[index].captions


@pytest.mark.parametrize(("seed", "index"), [(3, 6), (4, 5)])
def test_another_seed_or_index_is_another_scene(seed: int, index: int) -> None:
    assert (render_scene(seed, index).image != SCENES[5].image).any()


@pytest.mark.parametrize("size", [48, 96, 128])
def test_size_is_kept_by_every_part(size: int) -> None:
    scene = render_scene(0, 1, size)
    assert scene.image.shape == (size, size, 3)
    assert scene.image.dtype == np.uint8
    assert scene.stuff.shape == (size, size)
    assert all(i.mask.shape == (size, size) and i.mask.dtype == np.bool_ for i in scene.instances)


def test_masks_are_disjoint_and_cover_the_image_together_with_the_stuff() -> None:
    for scene in SCENES:
        owners = np.sum([i.mask for i in scene.instances], axis=0) + (scene.stuff > 0)
        np.testing.assert_array_equal(owners, 1)


def test_every_object_stays_visible() -> None:
    assert all(i.mask.sum() > 60 for scene in SCENES for i in scene.instances)


def test_objects_do_overlap() -> None:
    """The world has occlusion: somewhere a front object touches one behind it along more than a few pixels."""
    touching = 0
    for scene in SCENES:
        for front in scene.instances[1:]:
            border = np.pad(front.mask, 1)
            grown = border[2:, 1:-1] | border[:-2, 1:-1] | border[1:-1, 2:] | border[1:-1, :-2]
            touching += any((grown & other.mask).sum() > 5 for other in scene.instances if other is not front)
    assert touching >= 5


def test_all_classes_occur() -> None:
    scenes = [render_scene(0, i, 48) for i in range(250)]
    things = {i.class_index for s in scenes for i in s.instances}
    stuff = {int(v) - 1 for s in scenes for v in np.unique(s.stuff) if v}
    assert things | stuff == set(range(len(world_classes())))


@pytest.mark.parametrize("shape", SHAPES)
def test_distance_is_negative_inside_and_the_shape_stays_within_reach(shape: str) -> None:
    axis = np.arange(-40, 41, dtype=np.float32)
    x, y = axis[None], axis[:, None]
    inside = signed_distance(shape, x, y, 20, 0.3) < 0
    assert 400 < inside.sum() < 1500
    assert np.hypot(x, y)[inside].max() <= REACH * 20


def test_shapes_differ_from_each_other() -> None:
    axis = np.arange(-40, 41, dtype=np.float32)
    masks = [signed_distance(s, axis[None], axis[:, None], 20, 0.0) < 0 for s in SHAPES]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert (one & other).sum() / (one | other).sum() < 0.9


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_varies_from_object_to_object(look: str) -> None:
    axis = np.arange(-20, 20, dtype=np.float32)
    one, other = (paint_look(look, axis[None], axis[:, None], 1.0, np.random.default_rng(s)) for s in (0, 1))
    assert one.dtype == np.float32
    assert np.abs(one - other).mean() > 1


@pytest.mark.parametrize("name", STUFF)
@pytest.mark.parametrize("size", [48, 96])
def test_stuff_is_a_texture_of_the_whole_image(name: str, size: int) -> None:
    texture = paint_stuff(name, size, np.random.default_rng(0))
    assert texture.shape == (size, size, 3)
    assert texture.dtype == np.float32
    assert texture.std(axis=(0, 1)).min() > 1


def test_regions_are_numbered_from_the_top() -> None:
    for seed in range(20):
        regions, names = draw_regions(np.random.default_rng(seed), 64)
        assert len(set(names)) == len(names)
        assert set(np.unique(regions)) == set(range(len(names)))
        assert (np.diff(regions.astype(int), axis=0) >= 0).all()


def test_indices_match_the_table() -> None:
    table = world_classes()
    assert table[thing_index(2, 3)].name == f"{LOOKS[2]} {SHAPES[3]}"
    assert table[stuff_index(1)].name == STUFF[1]
