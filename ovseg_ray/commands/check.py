"""`ovseg-ray data check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg_ray.commands.options import Debug, emit, say

if TYPE_CHECKING:
    from ovseg_ray.data import DataSet

EXAMPLES = ("ovseg-ray data check demo/world",)
SHOWN = 20


def check(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The data set.")],
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Only this split.")] = None,
    debug: Debug = False,
) -> None:
    """Read every image and mask of a data set, and name those that training would stop at."""
    from ovseg_ray.data import list_splits, open_dataset

    splits = [split] if split else list_splits(path)
    found = {name: _check_split(open_dataset(path, name)) for name in splits}
    emit({"data": str(path), "splits": found})
    if any(summary["problems"] for summary in found.values()):
        raise typer.Exit(2)


def _check_split(dataset: DataSet) -> dict[str, Any]:
    from ovseg_ray.data.check import check_dataset
    from ovseg_ray.progress import ProgressBar

    with ProgressBar(f"check {dataset.split}", total=len(dataset), unit="images") as bar:
        problems = check_dataset(dataset, progress=lambda done, total: bar.update(done))
    for problem in problems[:SHOWN]:
        say(f"error: {problem}")
    if len(problems) > SHOWN:
        say(f"error: … and {len(problems) - SHOWN} more in split {dataset.split}")
    labels = len(dataset.vocabulary) if dataset.vocabulary else 0
    return {"kind": dataset.kind, "images": len(dataset), "labels": labels, "problems": len(problems)}
