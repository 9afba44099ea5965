"""Reading pictures of every common kind as 8-bit RGB, with errors that name the file."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ovseg_ray.errors import UserError

# A decompression bomb stops here, not in the out-of-memory killer. Just under the point where Pillow itself refuses.
MAX_PIXELS = 178_000_000
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)
"""What Pillow's decoders raise on broken files."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_bytes(path: str | Path) -> bytes:
    """Contents of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; check that the file exists and can be read") from error


def image_size(data: bytes, name: str, *, exif: bool = True) -> tuple[int, int]:
    """(height, width) as `decode_image` will return them, from the header alone."""
    with undecoded(data, name) as image:
        return size_of(image, exif=exif)


def size_of(image: Image.Image, *, exif: bool = True) -> tuple[int, int]:
    """As `image_size`, of a picture that is already open."""
    turned = exif and _orientation(image) >= 5  # 5..8 exchange the axes
    return (image.width, image.height) if turned else (image.height, image.width)


def decode_image(data: bytes, name: str, *, exif: bool = True) -> np.ndarray:
    """Decode an image to (H, W, 3) uint8 RGB.

    Palette, grey, CMYK and 16-bit images are converted (16-bit by its high byte) and transparency is laid over
    white.

    Args:
        data: contents of the file.
        name: what errors call it.
        exif: turn the picture upright as its EXIF orientation says. Right for photographs; wrong for images with
            masks, which are drawn on the pixels as stored.

    Raises:
        UserError: not an image, truncated, or over `MAX_PIXELS`.
    """
    with undecoded(data, name) as image:
        return rgb(image, name, exif=exif)


def rgb(image: Image.Image, name: str, *, exif: bool = True) -> np.ndarray:
    """As `decode_image`, from a picture that is already open.

    Raises:
        UserError: truncated.
    """
    try:
        if exif and (turn := _TURNS.get(_orientation(image))) is not None:
            image = image.transpose(turn)
        if image.mode.startswith("I") or image.mode == "F":
            return np.repeat(_grey(image)[:, :, None], 3, axis=2)
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except DAMAGE as error:
        raise UserError(f"{name}: damaged image ({error}); replace or remove the file") from error


def undecoded(data: bytes, name: str) -> Image.Image:
    """A picture whose header is read and whose pixels are not.

    Raises:
        UserError: not an image, or over `MAX_PIXELS`.
    """
    if not data:
        raise UserError(f"{name}: empty file; replace or remove it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: over {MAX_PIXELS} pixels; make it smaller") from error
    except (UnidentifiedImageError, *DAMAGE) as error:
        raise UserError(f"{name}: not an image that can be read; give JPEG, PNG, WebP, BMP or TIFF") from error
    if image.width * image.height > MAX_PIXELS:
        raise UserError(f"{name}: {image.width} x {image.height} is over {MAX_PIXELS} pixels; make it smaller")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (*DAMAGE, TypeError):
        return 1  # cameras write broken EXIF blocks beside sound pixels
    return value if value in _TURNS else 1


def _grey(image: Image.Image) -> np.ndarray:
    """(H, W) uint8 of a picture with more than 8 bits a pixel."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return (values >> 8).astype(np.uint8)
    # 32-bit integers and floats have no agreed white: the largest value tells which range was meant
    values = np.nan_to_num(values.astype(np.float64))
    largest = values.max(initial=0.0)
    top = 65535.0 if largest > 255 else 255.0 if largest > 1 or image.mode == "I" else 1.0
    return np.clip(values / top * 255.0, 0, 255).astype(np.uint8)
