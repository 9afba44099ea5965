"""Which images are meant, and what the files made of each are called."""

from __future__ import annotations

import glob
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ovseg_ray.data.images import IMAGE_SUFFIXES
from ovseg_ray.errors import UserError


def list_images(sources: Iterable[str | Path]) -> list[Path]:
    """Absolute paths of images: files as given, all images within folders, and what patterns match; each once.

    A file that does not exist is kept, so that it is reported beside the other images, if there are others.

    Raises:
        UserError: no source, a folder without images, a pattern without matches, or files none of which exists.
    """
    found: dict[Path, None] = {}
    for source in map(str, sources):
        path = Path(source)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not inside:
                raise UserError(f"{source}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        elif not path.exists() and glob.has_magic(source):
            inside = [Path(p) for p in sorted(glob.glob(source, recursive=True)) if Path(p).is_file()]
            if not inside:
                raise UserError(f"{source}: no image matches; check the pattern")
        else:
            inside = [path]
        found.update(dict.fromkeys(p.absolute() for p in inside))
    if not found:
        raise UserError("no images given; name image files, folders or patterns")
    if not any(path.exists() for path in found):
        others = " (nor are the others there)" if len(found) > 1 else ""
        raise UserError(f"{next(iter(found))}: no such file{others}; name image files, folders or patterns")
    return list(found)


def output_names(images: Sequence[Path]) -> list[str]:
    """One name an image, all different even where letter case does not count.

    The stem where that is enough; images that share a stem are told apart by folder and suffix (`cats_001_png`),
    and where that is not enough, by a hash of the path. The name of an image does not depend on their order.
    """
    candidates = [
        [p.stem for p in images],
        [f"{p.parent.name}_{p.stem}_{p.suffix[1:]}" for p in images],
        [f"{p.stem}_{hashlib.sha256(str(p).encode()).hexdigest()[:8]}" for p in images],
    ]
    names = candidates[0]
    for better in candidates[1:]:
        counts = Counter(name.casefold() for name in names)
        names = [other if counts[name.casefold()] > 1 else name for name, other in zip(names, better, strict=True)]
    return names
