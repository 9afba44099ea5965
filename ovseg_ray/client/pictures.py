"""Pictures as they are sent. Neither Pillow nor NumPy is needed for files and bytes."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg_ray.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    Picture = bytes | str | os.PathLike[str] | Image.Image | np.ndarray


def file_of(picture: Picture) -> bytes:
    """A picture as a file.

    Args:
        picture: bytes of a file, a path, a PIL image, or an array: (H, W, 3) or (H, W) uint8.

    Raises:
        UserError: a file that cannot be read, or no picture.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | os.PathLike):
        try:
            return Path(picture).read_bytes()
        except OSError as error:
            raise UserError(f"{picture}: cannot be read ({error.strerror})") from error
    if hasattr(picture, "save"):
        return _png(picture)
    try:
        from PIL import Image

        return _png(Image.fromarray(picture))
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError("not a picture: give a path, bytes, a PIL image or an array of uint8") from error


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
