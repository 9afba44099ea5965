"""A data set: one table of self-contained references, and how a row of it becomes a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ovseg_ray.data.images import decode_image, image_size, read_bytes
from ovseg_ray.data.sample import DecodedSample, Sample, encode_mask
from ovseg_ray.errors import UserError
from ovseg_ray.vocabulary import Vocabulary

INDEX_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("image_path", pa.string()),
        ("mask_path", pa.string()),  # an index PNG: class values, or stuff under the instances; null: none
        ("instances", pa.string()),  # JSON: COCO annotations of this image and the size they are for; null: none
        ("captions", pa.list_(pa.string())),
    ]
)


def plain_index(
    image_ids: Sequence[str], image_paths: Sequence[Path], mask_paths: Sequence[Path] | None = None
) -> pa.Table:
    """The index of a data set without instances and captions; `mask_paths` where it has masks."""
    count = len(image_ids)
    masks = pa.nulls(count, pa.string()) if mask_paths is None else [str(path) for path in mask_paths]
    return pa.table(
        {
            "image_id": image_ids,
            "image_path": [str(path) for path in image_paths],
            "mask_path": masks,
            "instances": pa.nulls(count, pa.string()),
            "captions": [[] for _ in range(count)],
        },
        schema=INDEX_SCHEMA,
    )


class MaskReader(Protocol):
    """How one format stores its masks. Small and picklable: it travels to every worker."""

    def __call__(self, row: Mapping[str, Any], height: int, width: int) -> np.ndarray | None:
        """Class-index map (height, width) uint8 or uint16 of an index row; None where it has no mask.

        Raises:
            UserError: a mask of another size than its image, or a value outside the label set.
        """


@dataclass(frozen=True)
class DataSet:
    """One split of one data set.

    Attributes:
        path: its directory.
        split: name of the split.
        kind: reader that recognised it ("coco", "index_png", "folder").
        index: one row an image, `INDEX_SCHEMA`, sorted by image_id; rows are self-contained, so any slice of
            the table can be sent to any worker.
        vocabulary: labels that mask values index, or None where there are no masks.
        masks: turns a row into its class-index map.
        unseen: labels that a zero-shot protocol holds out, as the data set itself names them.
        parents: leaf label -> parent label, where the data set has a hierarchy.
        exif: whether images are turned upright as their EXIF orientation says: yes for bare photographs, no where
            annotations refer to the pixels as stored.
    """

    path: Path
    split: str
    kind: str
    index: pa.Table
    vocabulary: Vocabulary | None
    masks: MaskReader | None
    unseen: tuple[str, ...] = ()
    parents: Mapping[str, str] = field(default_factory=dict)
    exif: bool = False

    def __len__(self) -> int:
        return self.index.num_rows

    def row(self, i: int) -> dict[str, Any]:
        """Row `i` of the index as a plain dict."""
        return self.index.slice(i, 1).to_pylist()[0]

    def decoded(self, i: int) -> DecodedSample:
        """Image and mask of row `i` as arrays.

        Raises:
            UserError: unreadable image or mask, mask of another size, class id outside the label set.
        """
        return self.decode_row(self.row(i))

    def decode_row(self, row: Mapping[str, Any], data: bytes | None = None) -> DecodedSample:
        """As `decoded`, from an index row; `data`: contents of the image's file, where they were read already."""
        path = row["image_path"]
        image = decode_image(read_bytes(path) if data is None else data, path, exif=self.exif)
        mask = self.masks(row, image.shape[0], image.shape[1]) if self.masks else None
        return DecodedSample(row["image_id"], image, mask, tuple(row["captions"] or ()))

    def files(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Files that an index row is decoded from: the image first, then its mask; none where nothing is decoded."""
        return (row["image_path"],) if row["mask_path"] is None else (row["image_path"], row["mask_path"])

    def sample(self, row: Mapping[str, Any]) -> Sample:
        """The wire form of an index row: image bytes as stored, mask as PNG of class indices."""
        data = read_bytes(row["image_path"])
        height, width = image_size(data, row["image_path"], exif=self.exif)
        mask = self.masks(row, height, width) if self.masks else None
        encoded = None if mask is None else encode_mask(mask)
        return Sample(row["image_id"], data, height, width, encoded, tuple(row["captions"] or ()), self.exif)

    def without_index(self) -> DataSet:
        """The same without its rows: small enough to travel to every worker, which then gets rows to decode."""
        return replace(self, index=INDEX_SCHEMA.empty_table())

    def fingerprint(self) -> str:
        """Hash of the index (ids, names, annotations) and labels: what results say they were computed on."""
        digest = hashlib.sha256()
        for name in ("image_id", "instances", "captions"):
            for value in self.index.column(name).to_pylist():
                digest.update(repr(value).encode())
        for name in ("image_path", "mask_path"):
            for value in self.index.column(name).to_pylist():
                digest.update(repr(value and Path(value).relative_to(self.path).as_posix()).encode())
        digest.update((self.vocabulary.fingerprint if self.vocabulary else "none").encode())
        return digest.hexdigest()[:16]

    def require_masks(self) -> Vocabulary:
        """The labels.

        Raises:
            UserError: this data set has no masks.
        """
        if self.vocabulary is None or self.masks is None:
            raise UserError(f"{self.path} (split {self.split}): has no masks; give a data set with masks")
        return self.vocabulary
