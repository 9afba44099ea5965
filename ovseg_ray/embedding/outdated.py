"""Parts of a store whose images are not what they were: forgotten, so that the job makes them again."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.data.images import read_bytes
from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.sources import Source, content_of, stamp_of
from ovseg_ray.feature_store.store import part_file, part_summary
from ovseg_ray.feature_store.vectors import MANIFEST
from ovseg_ray.progress import ProgressBar


def drop_outdated(dataset: DataSet, out: Path, size: int) -> None:
    """Forget parts with an image that can be read by now, or that was replaced, and with them that the store is whole.

    Args:
        dataset: of the job.
        out: the store.
        size: images of a part.
    """
    known = [number for number in range(-(-len(dataset) // size)) if part_file(out, number).is_file()]
    if not known:
        return
    replaced: list[str] = []
    with ProgressBar("look for changed images", len(known), "parts") as bar:
        for done, number in enumerate(known, 1):
            file = part_file(out, number)
            summary = part_summary(file)
            failed, sources = dict(summary.failed), {source.image_id: source for source in summary.sources}
            rows = dataset.index.slice(number * size, size).to_pylist()
            others = [row["image_path"] for row in rows if _replaced(dataset, row, sources.get(row["image_id"]))]
            replaced += others
            if others or any(row["image_id"] in failed and _readable(dataset, row) for row in rows):
                (out / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(out / "maps", ignore_errors=True)  # of the store as it was
                file.unlink()
            bar.update(done)
    if replaced:
        what = f"{replaced[0]} has" if len(replaced) == 1 else f"{len(replaced)} images ({replaced[0]}, …) have"
        print(f"embed: {what} other content than was embedded; embedding again", file=sys.stderr, flush=True)


def _replaced(dataset: DataSet, row: dict[str, Any], source: Source | None) -> bool:
    if source is None or source.content is None or stamp_of(files := dataset.files(row)) == source.stamp:
        return False
    try:
        return content_of(read_bytes(file) for file in files) != source.content
    except UserError:
        return False  # away, perhaps for a moment: what was made of it still holds


def _readable(dataset: DataSet, row: dict[str, Any]) -> bool:
    try:
        dataset.decode_row(row)
    except UserError:
        return False
    return True
