"""What one image with its annotations is, encoded (for the wire) and decoded (for the network)."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import Image

from ovseg_ray.data.images import decode_image

IGNORE_8 = 255
IGNORE_16 = 65535

SAMPLE_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", pa.binary()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("mask", pa.binary()),
        ("captions", pa.list_(pa.string())),
        ("exif", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class DecodedSample:
    """A sample ready for transforms.

    Attributes:
        image_id: unique within its data set and split.
        image: (H, W, 3) uint8, RGB.
        mask: (H, W) uint8 or uint16 class indices into the data set's labels, `ignore_index` elsewhere; or None.
        captions: zero or more sentences.
    """

    image_id: str
    image: np.ndarray
    mask: np.ndarray | None
    captions: tuple[str, ...]

    @property
    def ignore_index(self) -> int:
        """255 for 8-bit masks, 65535 for 16-bit ones."""
        return IGNORE_16 if self.mask is not None and self.mask.dtype == np.uint16 else IGNORE_8


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a Ray Dataset: compressed bytes, decoded late, on the worker that needs them.

    Attributes:
        image_id: unique within its data set and split.
        image: JPEG or PNG bytes.
        height: of the image, pixels.
        width: of the image, pixels.
        mask: PNG of class indices, 8 or 16 bit (255 / 65535 = ignore), or None.
        captions: zero or more sentences.
        exif: whether the picture is to be turned upright by its EXIF orientation; height and width are those after
            it. False for images with masks, which are drawn on the pixels as stored.
    """

    image_id: str
    image: bytes
    height: int
    width: int
    mask: bytes | None
    captions: tuple[str, ...]
    exif: bool = False

    def decode(self) -> DecodedSample:
        """Decode image and mask to arrays.

        Raises:
            UserError: the image is damaged.
        """
        mask = None if self.mask is None else np.array(Image.open(io.BytesIO(self.mask)))
        image = decode_image(self.image, self.image_id, exif=self.exif)
        return DecodedSample(self.image_id, image, mask, self.captions)


def encode_mask(mask: np.ndarray) -> bytes:
    """PNG bytes of an (H, W) uint8 or uint16 map."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
