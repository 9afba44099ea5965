"""The `ovseg-ray` command: its verbs, and how errors reach the user. No logic, and no heavy import."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from ovseg_ray.commands import (
    calibrate,
    check,
    convert,
    demo,
    doctor,
    embed,
    evaluate,
    name,
    neighbours,
    predict,
    serve,
    train,
    tune,
    world,
)
from ovseg_ray.commands.explain import explain
from ovseg_ray.commands.options import Debug, examples

INTERRUPTED = 130

app = typer.Typer(
    help="Open-vocabulary segmentation at cluster scale, on Ray.",
    epilog=examples("ovseg-ray demo --out demo", "ovseg-ray train --help"),
    add_completion=False,
    rich_markup_mode=None,  # plain text: quick, greppable, and lines of examples stay whole
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look at data sets.", rich_markup_mode=None)
app.command("demo", epilog=examples(*demo.EXAMPLES))(demo.demo)
app.command("world", epilog=examples(*world.EXAMPLES))(world.world)
app.command("train", epilog=examples(*train.EXAMPLES))(train.train)
app.command("tune", epilog=examples(*tune.EXAMPLES))(tune.tune)
app.command("calibrate", epilog=examples(*calibrate.EXAMPLES))(calibrate.calibrate)
app.command("evaluate", epilog=examples(*evaluate.EXAMPLES))(evaluate.evaluate)
app.command("predict", epilog=examples(*predict.EXAMPLES))(predict.predict)
app.command("serve", epilog=examples(*serve.EXAMPLES))(serve.serve)
app.command("token", epilog=examples(*serve.TOKEN_EXAMPLES))(serve.token)
app.command("name", epilog=examples(*name.EXAMPLES))(name.name)
app.command("doctor", epilog=examples(*doctor.EXAMPLES))(doctor.doctor)
app.command("embed", epilog=examples(*embed.EXAMPLES))(embed.embed)
app.command("config", epilog=examples(*train.CONFIG_EXAMPLES))(train.config)
app.command("table", epilog=examples(*evaluate.TABLE_EXAMPLES))(evaluate.table)
data_app.command("check", epilog=examples(*check.EXAMPLES))(check.check)
app.add_typer(data_app, name="data", epilog=examples(*check.EXAMPLES))
convert_app = typer.Typer(help="Use checkpoints of other programs.", rich_markup_mode=None)
convert_app.command("lseg", epilog=examples(*convert.EXAMPLES))(convert.lseg)
convert_app.command("stego", epilog=examples(*convert.STEGO_EXAMPLES))(convert.stego)
app.add_typer(convert_app, name="convert", epilog=examples(*convert.EXAMPLES, *convert.STEGO_EXAMPLES))
neighbours_app = typer.Typer(help="Find which images are alike.", rich_markup_mode=None)
neighbours_app.command("build", epilog=examples(*neighbours.EXAMPLES))(neighbours.build)
neighbours_app.command("serve", epilog=examples(*neighbours.SERVE_EXAMPLES))(neighbours.serve)
neighbours_app.command("query", epilog=examples(*neighbours.QUERY_EXAMPLES))(neighbours.query)
neighbours_app.command("add", epilog=examples(*neighbours.ADD_EXAMPLES))(neighbours.add)
app.add_typer(neighbours_app, name="neighbours", epilog=examples(*neighbours.EXAMPLES, *neighbours.SERVE_EXAMPLES))


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("ovseg-ray"))
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
    debug: Debug = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: words after the program's name; those of this process by default.

    Returns:
        Exit code: 0 done, 1 failed by a fault of the program, 2 something the user can mend, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--debug"]:
        words.append(words.pop(0))  # `ovseg-ray --debug train …` says the same as `ovseg-ray train … --debug`
    try:
        code = typer.main.get_command(app).main(args=words, prog_name="ovseg-ray", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if "--debug" in words:
            traceback.print_exc()
        line, code = explain(error)
        print(f"error: {line}", file=sys.stderr)
    if code == INTERRUPTED:
        print("interrupted", file=sys.stderr)
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
