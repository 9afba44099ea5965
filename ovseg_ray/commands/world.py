"""`ovseg-ray world`: write the generated data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovseg_ray.commands.options import Address, Debug, emit

EXAMPLES = ("ovseg-ray world data/world --scenes 200 --seed 0",)


def world(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to write; new, empty, or the same world.")],
    scenes: Annotated[int, typer.Option(min=5, metavar="N", help="Pictures, training and validation together.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, metavar="S", help="The same seed writes the same files.")] = 0,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Write the generated world: images, instance masks, stuff maps and captions in the COCO layout."""
    from ovseg_ray.cluster import connect
    from ovseg_ray.data.world import write_world
    from ovseg_ray.progress import ProgressBar

    with connect(address, debug=debug), ProgressBar("world", total=scenes, unit="scenes") as bar:
        written = write_world(out, scenes, seed, progress=lambda done, total: bar.update(done))
    emit({"world": str(written), "scenes": scenes, "seed": seed})
