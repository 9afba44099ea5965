"""Pictures as clients send them: base64, data URI or bytes, opened within limits."""

from __future__ import annotations

import base64
import binascii

import numpy as np
from PIL import Image

from ovseg_ray.data.images import rgb, undecoded
from ovseg_ray.errors import UserError
from ovseg_ray.serving.config import LimitsConfig
from ovseg_ray.serving.problems import ProblemError

NAME = "picture"


def from_text(text: str) -> bytes:
    """Bytes of base64 or of a data URI.

    Raises:
        ProblemError: neither.
    """
    if text.startswith("data:"):
        header, comma, text = text.partition(",")
        if not comma or not header.endswith(";base64"):
            raise ProblemError("invalid_image", "the data URI must be data:image/TYPE;base64,DATA")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProblemError("invalid_image", "inputs: neither base64 nor a data URI") from error


def pixels_of(data: bytes, limits: LimitsConfig) -> int:
    """How many pixels a picture has, from its header alone: its orientation may stand behind its pixels.

    Raises:
        ProblemError: no picture, a format that is not taken, or too many pixels.
    """
    with _opened(data, limits) as image:
        return image.width * image.height


def decode(data: bytes, limits: LimitsConfig) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned upright.

    Raises:
        ProblemError: as `pixels_of`, or damaged.
    """
    try:
        with _opened(data, limits) as image:
            return rgb(image, NAME)
    except UserError as error:
        raise ProblemError("invalid_image", "the picture is damaged or cut off") from error
    except Image.DecompressionBombError as error:
        raise ProblemError("image_too_large", f"at most {limits.pixels} pixels are taken") from error


def _opened(data: bytes, limits: LimitsConfig) -> Image.Image:
    """Its header read, and found within the limits."""
    if not data:
        raise ProblemError("invalid_image", "the picture is empty")
    try:
        image = undecoded(data, NAME)
    except UserError as error:
        if "pixels; make it smaller" in str(error):
            raise ProblemError("image_too_large", f"at most {limits.pixels} pixels are taken") from error
        raise ProblemError("invalid_image", f"not a picture that can be read; send {_names(limits)}") from error
    if image.format not in limits.formats:
        raise ProblemError("unsupported_format", f"{image.format} is not taken; send {_names(limits)}")
    if (pixels := image.width * image.height) > limits.pixels:
        raise ProblemError(
            "image_too_large", f"{image.width} x {image.height} is {pixels} pixels, at most {limits.pixels} are taken"
        )
    return image


def _names(limits: LimitsConfig) -> str:
    return ", ".join(limits.formats)
