"""`ovseg-ray serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovseg_ray.commands.options import Address, Debug, say

EXAMPLES = ("ovseg-ray serve demo/lseg",)


def serve(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories that trainings left.")],
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="PORT", help="Port to listen on.")] = 8000,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Answer pictures and words over HTTP, until stopped: an API (see /docs) and a page in the browser."""
    from ovseg_ray.config import build
    from ovseg_ray.serving.config import ServingConfig
    from ovseg_ray.serving.local import serve_here

    config = build(ServingConfig, {"models": [{"run": str(run.absolute())} for run in runs]}, "ovseg-ray serve")
    serve_here(
        config,
        host=host,
        port=port,
        address=address,
        debug=debug,
        ready=lambda: say(f"serving at http://{host}:{port} (API: /docs); Ctrl-C stops it"),
    )
