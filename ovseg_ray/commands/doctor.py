"""`ovseg-ray doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from ovseg_ray.commands.options import Debug, UntouchedAddress

EXAMPLES = ("ovseg-ray doctor", "ovseg-ray doctor --json")


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    address: UntouchedAddress = None,
    debug: Debug = False,
) -> None:
    """Say what is installed, which accelerators there are, whether Ray starts, and how to get what is missing.

    Exit code 2 if something that every command needs is broken; a missing optional part is not.
    """
    from ovseg_ray.doctor import as_json, as_table, examine, healthy

    findings = examine(address, debug=debug)
    print(as_json(findings) if json else as_table(findings))
    if not healthy(findings):
        raise typer.Exit(2)
