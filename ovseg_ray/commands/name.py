"""`ovseg-ray name`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovseg_ray.commands.options import DataPath, Debug, RunPath, emit, loading

EXAMPLES = (
    "ovseg-ray demo --out demo --all",
    "ovseg-ray name demo/stego/clusters demo/stego-named --clip run:demo/clip --data demo/world",
    "ovseg-ray evaluate demo/stego-named --data demo/world --out demo/stego-named.json",
)


def name(
    run: RunPath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Run directory to write; new or empty.")],
    clip: Annotated[
        str,
        typer.Option(metavar="SPEC", help="CLIP whose towers name: run:PATH of a 'train clip', or open_clip:ARCH:TAG."),
    ],
    data: DataPath,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Split of the data set. Default: train, or the only one.")
    ] = None,
    images: Annotated[int, typer.Option(min=0, metavar="N", help="Of it, evenly spread; 0: all.")] = 256,
    debug: Debug = False,
) -> None:
    """Name the clusters of a stego run, so that it answers any labels as the other methods do.

    Each cluster takes what a CLIP model sees in its regions. No labels are read. The first of the examples makes what
    the others work on.
    """
    loading()
    from ovseg_ray.data import open_dataset
    from ovseg_ray.evaluation.naming import name_run

    dataset = open_dataset(data, split)
    loading(f"{run} and {clip}")
    named = name_run(run, out, clip, dataset, images)
    regions = named.names.regions
    emit(
        {
            "run": str(named.run.path),
            "model": str(named.run.model),
            "clusters": len(regions),
            "unseen_clusters": int((regions == 0).sum()),
            "regions": int(regions.sum()),
        }
    )
