"""`ovseg-ray train` and `ovseg-ray config`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovseg_ray.commands.options import Address, Debug, emit, goes_on, loading, read_workers
from ovseg_ray.errors import UserError, did_you_mean

EXAMPLES = (
    "ovseg-ray world data/world --scenes 1000",
    "ovseg-ray train clip --data data/world --out runs/clip --set training.epochs=4",
    "ovseg-ray embed data/world data/features",
    "ovseg-ray train stego --data data/features --out runs/stego --set training.steps=100",
)
CONFIG_EXAMPLES = ("ovseg-ray config lseg", "ovseg-ray config serve")
SERVE = "serve"

MethodName = Annotated[str, typer.Argument(metavar="METHOD", help="What to train: clip, lseg or stego.")]
ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="FILE", help="YAML file, or the name of a shipped preset; over the method's defaults."
    ),
]


def train(
    method: MethodName,
    out: Annotated[Path, typer.Option(metavar="RUN", help="Directory of the run; new, or one to --resume.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Data set: a COCO-style directory, images + index PNGs with classes.json, PASCAL VOC, FSS-1000, or "
            "for stego a feature store ('ovseg-ray embed'); again for more of them. Replaces the paths of data.sources "
            "in --config.",
        ),
    ] = None,
    config: ConfigFile = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One configuration key, such as training.epochs=5."),
    ] = None,
    workers: Annotated[
        str,
        typer.Option(
            metavar="N|N:M",
            help="Training processes (one a GPU); 1:4 follows what the cluster has. The result is the same.",
        ),
    ] = "1",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of the run.")] = False,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Train a method and leave a run directory: configuration, metrics, checkpoints, model, provenance, report.

    Defaults of the method, then --config, then --set; 'ovseg-ray config METHOD' lists every key.
    """
    loading()
    from ovseg_ray.cluster import connect
    from ovseg_ray.evaluation.report import ReportInput, write_report
    from ovseg_ray.training import check, resolve_config
    from ovseg_ray.training import train as run_training
    from ovseg_ray.training.config import overrides_of

    count = read_workers(workers)
    resolved = resolve_config(method, config, overrides_of(settings or [], data or [], config))
    check(resolved, out, resume=resume)  # before Ray takes its time to start
    with goes_on("continue with the same command and --resume"), connect(address, debug=debug):
        run = run_training(resolved, out, workers=count, resume=resume)
    report = run.path / "report.html"
    write_report(report, ReportInput(f"Training of {run.path.name}", runs={method: run.path}))
    emit({"run": str(run.path), "model": str(run.model), "metrics": str(run.metrics_file), "report": str(report)})


def config(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="clip, lseg or stego; or serve, for an endpoint.")],
    file: ConfigFile = None,
    debug: Debug = False,
) -> None:
    """List every configuration key of a method or an endpoint: its default, what is allowed, what it does.

    The printed text is YAML that --config reads, so it is also where an own file starts from.
    """
    from ovseg_ray.commands.annotate import annotated_yaml

    if method == SERVE:
        from ovseg_ray.config import build, read_yaml
        from ovseg_ray.serving.config import ServingConfig

        values = read_yaml(Path(file)) if file else {"models": [{"run": "demo/lseg"}]}
        print(annotated_yaml(build(ServingConfig, values, file or method)))
        return
    from ovseg_ray.methods.registry import get_method, method_names
    from ovseg_ray.training.config import resolve_config

    if method not in (known := [*method_names(), SERVE]):
        hint = did_you_mean(method, known, f"there is one for {', '.join(known)}")
        raise UserError(f"'{method}' has no configuration; {hint}")
    resolved = resolve_config(method, file, {})
    print(f"method: {method}\nmodel:")
    print(annotated_yaml(get_method(method).config_class.model_validate(resolved.model), depth=1))
    print(annotated_yaml(resolved, skip=("method", "model")))
