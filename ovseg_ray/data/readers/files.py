"""What the readers share: JSON, listings, names of images, and `classes.json`."""

from __future__ import annotations

import gc
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from ovseg_ray.data.images import IMAGE_SUFFIXES
from ovseg_ray.errors import UserError
from ovseg_ray.vocabulary import Vocabulary


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection within: among millions of live objects it finds nothing and triples the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_json(path: Path) -> dict[str, Any]:
    """Contents of a JSON file that holds an object.

    Raises:
        UserError: missing, unreadable, broken, or something else than an object.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; check that the file exists and can be read") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: broken JSON at line {error.lineno}, column {error.colno} ({error.msg}); "
            "fetch or write the file again"
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON text file; fetch or write the file again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a JSON {type(value).__name__}, must hold an object; fetch the right file")
    return value


def read_lines(path: Path, what: str = "images") -> list[str]:
    """Lines of a text file that are not blank, stripped.

    Raises:
        UserError: it cannot be read, or has none.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text; write one name a line") from error
    if not lines:
        raise UserError(f"{path}: lists no {what}; write one name a line")
    return lines


def is_image(name: str) -> bool:
    """Whether a file name ends as an image's does."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def walk_images(root: Path) -> Iterable[str]:
    """Paths of all images below a directory, relative, with "/", sorted in each directory; hidden ones left out."""
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        above = Path(parent).relative_to(root)
        yield from ((above / name).as_posix() for name in sorted(names) if is_image(name))


def require_files(folder: Path, names: Iterable[str], named_by: Path, what: str = "image") -> None:
    """See that every named file exists; every directory is listed once, no file is touched.

    Args:
        folder: where they should be.
        names: relative to it, with "/".
        named_by: the file that names them.
        what: what errors call them.

    Raises:
        UserError: names the first that is missing, and how many are.
    """
    listings: dict[str, set[str]] = {}

    def exists(name: str) -> bool:
        above, _, leaf = name.rpartition("/")
        if above not in listings:
            place = folder / above
            listings[above] = set(os.listdir(place)) if place.is_dir() else set()
        return leaf in listings[above]

    absent = [name for name in names if not exists(name)]
    if absent:
        count = "1 file is" if len(absent) == 1 else f"{len(absent)} files are"
        raise UserError(
            f"{named_by}: names {what} {absent[0]}, which is not in {folder} ({count} missing); "
            f"add what is missing or take it out of the list"
        )


def image_ids(names: Sequence[str], source: Path) -> list[str]:
    """An id for each image, all different: its name without suffix, or with it where that is another's id or name.

    Raises:
        UserError: a name stands twice in `source`.
    """
    repeated = first_repeated(names)
    if repeated is not None:
        raise UserError(f"{source}: image {repeated} is listed twice; remove one of the entries")
    stems = [PurePosixPath(name).with_suffix("").as_posix() for name in names]
    count = Counter([*stems, *names])  # "a.jpg" is the stem of "a.jpg.png" and may be a picture beside it
    return [stem if count[stem] == 1 else name for stem, name in zip(stems, names, strict=True)]


def first_repeated(values: Iterable[Any]) -> Any | None:
    """The first value that stands twice, or None."""
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def class_vocabulary(names: Any, source: Path, name: str) -> Vocabulary:
    """Labels from the class names of a file.

    Raises:
        UserError: not a list of names, or empty or repeated ones.
    """
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise UserError(f"{source}: 'classes' must be a list of names, in the order of their indices")
    try:
        return Vocabulary.of(names, name=name)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def class_groups(table: dict[str, Any], names: Sequence[str], source: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """The optional "unseen" and "parents" of `classes.json`.

    Raises:
        UserError: of another form, or about classes that are not in the list.
    """
    unseen, parents = table.get("unseen", []), table.get("parents", {})
    if not isinstance(unseen, list) or not all(isinstance(name, str) for name in unseen):
        raise UserError(f"{source}: 'unseen' must be a list of class names")
    if not isinstance(parents, dict) or not all(isinstance(name, str) for name in parents.values()):
        raise UserError(f"{source}: 'parents' must map class names to the names of their parents")
    for key, group in (("unseen", unseen), ("parents", parents)):
        for name in group:
            if name not in names:
                raise UserError(f"{source}: '{key}' names '{name}', which is not in 'classes'; correct the name")
    return tuple(unseen), parents
