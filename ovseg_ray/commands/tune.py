"""`ovseg-ray tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovseg_ray.commands.options import Address, Debug, emit, loading
from ovseg_ray.commands.train import ConfigFile, MethodName

EXAMPLES = (
    "ovseg-ray world data/world --scenes 300",
    "ovseg-ray tune clip --data data/world --out sweeps/clip --trials 4 --set training.epochs=2",
)


def tune(
    method: MethodName,
    out: Annotated[Path, typer.Option(metavar="SWEEP", help="Directory of the sweep; new, or one to --resume.")],
    data: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="Data set; again for more of them, as for train.")
    ] = None,
    space: Annotated[
        str | None,
        typer.Option("--space", metavar="FILE", help="YAML file of ranges. Default: the one that ships for METHOD."),
    ] = None,
    trials: Annotated[int, typer.Option(metavar="N", min=1, help="Trials in all, over every start.")] = 20,
    config: ConfigFile = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One configuration key that all trials share."),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Training processes of each trial.")] = 1,
    parallel: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Trials at once. Default: as many as the cluster holds at the time."),
    ] = None,
    gpus: Annotated[
        float, typer.Option(metavar="SHARE", min=0.01, help="GPUs of each training process, where there are any.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Of the suggestions.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the sweep that is there.")] = False,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Search for the configuration that does best, and leave best.yaml, study.db (Optuna's) and report.html.

    Trials are compared on images cut out of the training split. Trial 0 is the configuration as given.
    """
    loading()
    from ovseg_ray.cluster import connect
    from ovseg_ray.training import resolve_config
    from ovseg_ray.training.config import overrides_of
    from ovseg_ray.tuning import SweepOptions, read_space, summary
    from ovseg_ray.tuning import tune as run_sweep

    resolved = resolve_config(method, config, overrides_of(settings or [], data or [], config))
    found = read_space(space, method)
    options = SweepOptions(trials, seed, workers, parallel, gpus, resume)
    with connect(address, debug=debug):
        ledger = run_sweep(resolved, found, out, options, source=space or f"space of {method}")
    emit(summary(ledger, out.absolute()))
