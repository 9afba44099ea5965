from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_ray.data.masks import check_size, ignore_map, ignore_value, read_index_png, translate
from ovseg_ray.data.sample import encode_mask
from ovseg_ray.errors import UserError


@pytest.mark.parametrize(("classes", "ignore"), [(1, 255), (255, 255), (256, 65535), (65535, 65535)])
def test_ignore_value_leaves_room_for_every_class(classes: int, ignore: int) -> None:
    assert ignore_value(classes) == ignore
    empty = ignore_map(2, 3, classes)
    assert empty.shape == (2, 3)
    assert (empty == ignore).all()
    assert np.iinfo(empty.dtype).max == ignore


def test_too_many_classes_for_sixteen_bits() -> None:
    with pytest.raises(UserError, match="65536 classes, at most 65535"):
        ignore_value(65536)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_round_trip(tmp_path: Path, dtype: type) -> None:
    mask = np.array([[0, 1, 2], [np.iinfo(dtype).max, 4, 5]], dtype)
    (tmp_path / "m.png").write_bytes(encode_mask(mask))
    found = read_index_png(str(tmp_path / "m.png"), 2, 3)
    np.testing.assert_array_equal(found, mask)
    assert found.dtype == dtype


def test_palette_masks_give_indices_not_colours(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([128, 0, 0, 0, 128, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "m.png")
    assert read_index_png(str(tmp_path / "m.png"), 1, 2).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("image", "fragment"),
    [
        (Image.new("RGB", (3, 2)), "mask is RGB, must hold one class index a pixel"),
        (Image.new("RGBA", (3, 2)), "mask is RGBA"),
        (Image.new("L", (2, 3)), "mask is 2 x 3 but its image is 3 x 2"),
    ],
)
def test_masks_that_do_not_fit(tmp_path: Path, image: Image.Image, fragment: str) -> None:
    path = tmp_path / "m.png"
    image.save(path)
    with pytest.raises(UserError) as caught:
        read_index_png(str(path), 2, 3)
    assert str(caught.value).startswith(f"{path}: ")
    assert fragment in str(caught.value)


def test_truncated_mask_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path.write_bytes(encode_mask(noise)[:1000])
    with pytest.raises(UserError, match=r"m\.png: damaged mask"):
        read_index_png(str(path), 64, 64)


def test_translate_maps_ignores_and_refuses() -> None:
    values = np.array([[5, 9], [0, 5]], np.uint8)
    found = translate(values, {5: 0, 9: 1}, frozenset({0}), 2, "m.png")
    assert found.tolist() == [[0, 1], [255, 0]]
    with pytest.raises(UserError, match=r"m\.png: class id 9 is outside the label set of 1 classes"):
        translate(values, {5: 0}, frozenset({0}), 1, "m.png")


def test_translate_widens_when_labels_need_it() -> None:
    values = np.array([[0, 254, 255]], np.uint8)
    found = translate(values, {v: v + 300 for v in range(255)}, frozenset({255}), 600, "m.png")
    assert found.dtype == np.uint16
    assert found.tolist() == [[300, 554, 65535]]


def test_values_beyond_the_masks_type_do_no_harm() -> None:
    found = translate(np.zeros((1, 1), np.uint8), {0: 0, 70_000: 1}, frozenset({65535}), 2, "m.png")
    assert found.tolist() == [[0]]


def test_equal_sizes_pass() -> None:
    check_size("m", (2, 3), (2, 3))
