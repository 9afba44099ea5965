"""`ovseg-ray demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovseg_ray.commands.options import Address, Debug, goes_on

EXAMPLES = ("ovseg-ray demo --out demo",)


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything goes; a stopped demo goes on there.")],
    seed: Annotated[int, typer.Option(min=0, metavar="S", help="Of the world and of both trainings.")] = 0,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Training processes of LSeg.")] = 2,
    every: Annotated[bool, typer.Option("--all", help="STEGO as well: clusters without labels, then named.")] = False,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Generate data, train CLIP and LSeg on it, evaluate on words never trained, write DIR/report.html.

    Takes about 8 minutes on two cores. No downloads, no GPU.
    """
    from ovseg_ray.cluster import connect
    from ovseg_ray.demo import run_demo

    with goes_on(), connect(address, debug=debug):
        run_demo(out, seed=seed, workers=workers, every=every)
