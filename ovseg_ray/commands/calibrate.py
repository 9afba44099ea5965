"""`ovseg-ray calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovseg_ray.commands.options import DataPath, Debug, RunPath, Split, emit, loading, say

EXAMPLES = (
    "ovseg-ray calibrate demo/lseg --data demo/world --out demo/lseg-calibrated",
    "ovseg-ray calibrate runs/stego --data photos --out runs/stego-fitted --clusters 27 --clusters 40",
)


def calibrate(
    run: RunPath,
    data: DataPath,
    out: Annotated[Path, typer.Option(metavar="MODEL", help="Directory of the calibrated model; new.")],
    split: Split = None,
    images: Annotated[int, typer.Option(metavar="N", min=0, help="Images to fit on, evenly spread; 0: all.")] = 200,
    clusters: Annotated[
        list[int] | None,
        typer.Option(
            metavar="K",
            min=2,
            help="Of a stego run: a number of clusters to try; again for more. Default: 1, 1.25, 1.5, 2 x the classes.",
        ),
    ] = None,
    crf: Annotated[
        bool,
        typer.Option("--crf", help="Of a stego run: fit the weights of its CRF, too: 16 pairs on 24 images, minutes."),
    ] = False,
    debug: Debug = False,
) -> None:
    """Fit the temperature of a model, so that its confidence says how often it is right. Labels stay as they are.

    Of a stego run whose clusters have no names it is the number of clusters that is fitted. The network runs once; all
    values are tried on its cached scores.
    """
    loading()
    from ovseg_ray.commands.evaluate import validation_split
    from ovseg_ray.data import open_dataset
    from ovseg_ray.tuning.calibrate import calibrate as fit

    found = fit(
        run, open_dataset(data, split or validation_split(data)), out, images=images, clusters=clusters or (), crf=crf
    )
    for name in ("before", "after"):
        shown = ", ".join(f"{key} {value:.4f}" for key, value in found[name].items())
        say(f"{name}: {shown}")
    emit(found)
