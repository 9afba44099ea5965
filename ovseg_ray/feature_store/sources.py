"""What the images of a store were when they were embedded, so that others under the same names are noticed.

Nothing is read to look: sizes and times of files come first, and only files whose own have changed are hashed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

HASH_BYTES = 16


class Source(NamedTuple):
    """The files of one image: itself and, where it has one, its mask.

    Attributes:
        image_id: of the image, not of its crops.
        stamp: `stamp_of` its files, from before they were read.
        content: `content_of` them; None where they could not be read.
    """

    image_id: str
    stamp: str
    content: str | None


def stamp_of(files: Sequence[str | Path]) -> str:
    """Sizes and times of change, "1234:1700000000000000000" for each file; "-" for one that is not there."""
    return " ".join(_stamp(Path(file)) for file in files)


def _stamp(file: Path) -> str:
    try:
        found = file.stat()
    except OSError:
        return "-"
    return f"{found.st_size}:{found.st_mtime_ns}"


def content_of(parts: Iterable[bytes]) -> str:
    """Hash of the contents of some files, in order: 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for data in parts:
        digest.update(len(data).to_bytes(8, "little"))  # else bytes could move from one file to the next
        digest.update(data)
    return digest.hexdigest()


class ContentHash:
    """One hash over the contents of all images. They are added up, so it is the same in any order."""

    def __init__(self) -> None:
        self._sum = self.images = 0

    def update(self, sources: Iterable[Source]) -> None:
        """Take some images; those that could not be read count with their names."""
        for source in sources:
            data = f"{source.image_id}\0{source.content or ''}".encode()
            self._sum += int.from_bytes(hashlib.blake2b(data, digest_size=HASH_BYTES).digest(), "little")
            self.images += 1

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        return f"{self._sum % (1 << 8 * HASH_BYTES):0{2 * HASH_BYTES}x}"
