"""`ovseg-ray serve` and `ovseg-ray token`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovseg_ray.commands.options import Address, Debug, loading, say

if TYPE_CHECKING:
    from ovseg_ray.serving.config import ServingConfig

EXAMPLES = (
    "ovseg-ray serve demo/lseg",
    "ovseg-ray serve runs/street runs/indoor --port 9000 --max-replicas 2",
)
TOKEN_EXAMPLES = ("ovseg-ray token alice",)


def serve(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Directories that trainings left.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML of everything else: names and versions, limits, batching, tokens."),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="PORT", help="Port to listen on.")] = 8000,
    min_replicas: Annotated[
        int, typer.Option(min=0, metavar="N", help="Processes at least; 0: none while nobody asks.")
    ] = 1,
    max_replicas: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes at most. Default: the least, or 1.")
    ] = None,
    haproxy: Annotated[
        bool,
        typer.Option(
            "--haproxy",
            help="Several times the requests a second; its counters (ports 8404, 9101) are open to EVERY interface.",
        ),
    ] = False,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Answer pictures and words over HTTP, until stopped: an API (see /docs) and a page in the browser.

    Only this machine can ask unless --host says otherwise. SIGHUP reads the runs and --config again and
    swaps models without losing a request.
    """
    loading()
    from ovseg_ray.serving.local import serve_here
    from ovseg_ray.serving.resources import local_scaling

    most = max_replicas or max(min_replicas, 1)
    serve_here(
        lambda: _read(runs or [], config),
        local_scaling(min_replicas, most),
        host=host,
        port=port,
        haproxy=haproxy,
        address=address,
        debug=debug,
        say=say,
    )


def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, for the log.")],
    debug: Debug = False,
) -> None:
    """Make a bearer token, and the line for `tokens` of a serving configuration.

    The line goes to stdout; the token itself only to the terminal (stderr), and is never shown again.
    """
    from ovseg_ray.serving.auth import new_token

    secret, line = new_token(name)
    say(f"the token, shown only here: {secret}\nunder tokens in --config:")
    print(f"- {line}")


def _read(runs: list[Path], config: Path | None) -> ServingConfig:
    from ovseg_ray.config import build, read_yaml
    from ovseg_ray.errors import UserError
    from ovseg_ray.serving.config import ServingConfig

    values = read_yaml(config) if config else {}
    listed = values.get("models") or []
    if not runs and not listed:
        raise UserError("nothing to serve; give a run, or --config FILE with models")
    if isinstance(listed, list):
        values = {**values, "models": [*({"run": str(run.absolute())} for run in runs), *listed]}
    return build(ServingConfig, values, str(config) if config else "ovseg-ray serve")
