from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from ovseg_ray.data import images
from ovseg_ray.data.images import decode_image, image_size, read_bytes
from ovseg_ray.errors import UserError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def solid(mode: str, colour: object, size: tuple[int, int] = (3, 2)) -> Image.Image:
    return Image.new(mode, size, colour)


def palette_with_transparency() -> bytes:
    image = solid("P", 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 1)
    return encoded(image, transparency=0)


def grey16(value: int) -> bytes:
    return encoded(Image.fromarray(np.full((2, 3), value, np.uint16)))


def exif(orientation: int) -> bytes:
    image = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
    tags = Image.Exif()
    tags[0x0112] = orientation
    return encoded(image, exif=tags)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(encoded(solid("RGB", (1, 2, 3), (1, 1))), (1, 2, 3), id="one pixel"),
        pytest.param(encoded(solid("L", 77)), (77, 77, 77), id="grey"),
        pytest.param(encoded(solid("1", 1)), (255, 255, 255), id="bilevel"),
        pytest.param(grey16(0x8040), (128, 128, 128), id="16-bit grey by its high byte"),
        pytest.param(grey16(200), (0, 0, 0), id="16-bit grey that is nearly black"),
        pytest.param(encoded(solid("RGBA", (200, 0, 0, 0))), (255, 255, 255), id="clear RGBA on white"),
        pytest.param(encoded(solid("RGBA", (200, 0, 0, 255))), (200, 0, 0), id="opaque RGBA"),
        pytest.param(encoded(solid("LA", (100, 255))), (100, 100, 100), id="grey with alpha"),
        pytest.param(encoded(solid("CMYK", (0, 255, 255, 0)), "TIFF"), (255, 0, 0), id="CMYK"),
        pytest.param(encoded(solid("I", 65535), "TIFF"), (255, 255, 255), id="32-bit integers"),
        pytest.param(encoded(solid("F", 1.0), "TIFF"), (255, 255, 255), id="floats in 0..1"),
        pytest.param(encoded(solid("F", float("nan")), "TIFF"), (0, 0, 0), id="floats that are none"),
    ],
)
def test_every_kind_of_picture_becomes_rgb(data: bytes, expected: tuple[int, int, int]) -> None:
    image = decode_image(data, "x")
    assert image.dtype == np.uint8
    assert image.shape[:2] == image_size(data, "x")
    assert image.shape[2] == 3
    assert (image == expected).all()
    image[0, 0] = 0  # writable: torch warns of arrays that are not


def test_palette_keeps_its_colours_and_clear_entries_turn_white() -> None:
    image = decode_image(palette_with_transparency(), "x")
    assert image[0, 0].tolist() == [200, 100, 50]
    assert image[1, 2].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_photographs_only(orientation: int) -> None:
    stored = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored, 1),
    }[orientation]
    data = exif(orientation)
    np.testing.assert_array_equal(decode_image(data, "x"), upright)
    assert image_size(data, "x") == upright.shape[:2]
    np.testing.assert_array_equal(decode_image(data, "x", exif=False), stored)
    assert image_size(data, "x", exif=False) == stored.shape[:2]


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_senseless_orientation_leaves_the_picture_alone(orientation: int) -> None:
    assert decode_image(exif(orientation), "x").shape == (2, 3, 3)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        pytest.param(b"", "empty file", id="zero bytes"),
        pytest.param(b"hello, I am a text\n", "not an image that can be read", id="text"),
        pytest.param(encoded(NOISE, "JPEG")[:1500], "damaged image (image file is truncated", id="truncated JPEG"),
        pytest.param(encoded(NOISE, "PNG")[:2000], "damaged image", id="truncated PNG"),
        pytest.param(encoded(NOISE, "TIFF")[:2000], "damaged image", id="truncated TIFF"),
        pytest.param(encoded(NOISE, "JPEG")[:3], "not an image that can be read", id="header cut off"),
    ],
)
def test_damage_is_one_line_that_names_the_file(data: bytes, fragment: str) -> None:
    with pytest.raises(UserError) as caught:
        decode_image(data, "dir/broken.jpg")
    message = str(caught.value)
    assert message.startswith("dir/broken.jpg: ")
    assert fragment in message
    assert "\n" not in message


@pytest.mark.parametrize("side", [15_000, 60_000])
def test_bombs_stop_before_they_are_unpacked(side: int) -> None:
    header = encoded(solid("L", 0, (1, 1)))
    ihdr = struct.pack(">II", side, side) + header[24:29]
    import zlib

    data = header[:16] + ihdr + struct.pack(">I", zlib.crc32(b"IHDR" + ihdr)) + header[33:]
    with pytest.raises(UserError, match=rf"bomb.png: .*over {images.MAX_PIXELS} pixels"):
        decode_image(data, "bomb.png")


def test_unreadable_path_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"nothing\.jpg: No such file or directory; check"):
        read_bytes(tmp_path / "nothing.jpg")
    with pytest.raises(UserError, match="Is a directory"):
        read_bytes(tmp_path)
