"""Options that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg_ray.cluster import send_token
from ovseg_ray.config import Precision
from ovseg_ray.errors import UserError

if TYPE_CHECKING:
    from ovseg_ray.vocabulary import Vocabulary


def _joined(address: str | None) -> str | None:
    if address:
        send_token()  # here, before any command imports Ray
    return address


_ADDRESS: dict[str, Any] = {
    "metavar": "ADDRESS",
    "help": "Ray cluster to run on: auto, host:6379 or ray://host:10001. Default: the cluster whose job this is, "
    "else Ray is started on this machine.",
}
Address = Annotated[str | None, typer.Option(callback=_joined, **_ADDRESS)]
# for what looks at the environment as the shell left it, and imports Ray no earlier than it connects
UntouchedAddress = Annotated[str | None, typer.Option(**_ADDRESS)]
PrecisionOption = Annotated[
    Precision,
    typer.Option("--precision", metavar="NAME", help="Of the image network: fp32, bf16 or fp16. Scores stay fp32."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors and what Ray logs.")]
Split = Annotated[
    str | None, typer.Option(metavar="NAME", help="Split of the data set. Default: its validation split.")
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Directory that a training left (its --out).")]
DataPath = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Data set: a COCO-style directory, images + index PNGs with classes.json, or a folder of images.",
    ),
]
LabelList = Annotated[
    str | None,
    typer.Option(metavar="LABELS", help='What to look for: "sky, grass, a red car"; "car|automobile" adds a synonym.'),
]
VocabularyFile = Annotated[
    str | None,
    typer.Option(
        "--vocabulary",
        metavar="FILE",
        help="YAML file of labels, synonyms and prompt templates, or the name of a shipped set, such as ade20k-150.",
    ),
]


def examples(*lines: str) -> str:
    """The epilog of a verb: commands that work as printed."""
    return "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in lines)])


def emit(result: Mapping[str, Any]) -> None:
    """A result for other programs: one JSON line on stdout."""
    print(json.dumps(result), flush=True)


def loading(what: str = "libraries") -> None:
    """A word to whoever watches a terminal: PyTorch and Ray take seconds to be imported, and so does a model."""
    if sys.stderr.isatty():
        say(f"loading {what}")


@contextmanager
def goes_on(how: str = "the same command goes on from there") -> Iterator[None]:
    """Tell whoever interrupts the block how to go on with what it had done."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"what was saved is kept; {how}")
        raise


def say(text: str) -> None:
    """A line for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


def read_labels(labels: str | None, vocabulary: str | None) -> str | Vocabulary | None:
    """What --labels or --vocabulary asks for; None if neither is given.

    Raises:
        UserError: both, a label that is empty or repeated, or a file that is no vocabulary.
    """
    if labels is not None and vocabulary is not None:
        raise UserError("--labels and --vocabulary were both given; give one of them")
    if labels is None and vocabulary is None:
        return None
    from ovseg_ray.vocabulary import Vocabulary

    if vocabulary is None:
        assert labels is not None
        Vocabulary.parse(labels)  # a mistake shows before a model is loaded; the model then adds its templates
        return labels
    return Vocabulary.from_yaml(vocabulary)


def read_workers(text: str) -> int | tuple[int, int]:
    """What --workers asks for: a number, or the least and the most.

    Raises:
        UserError: neither.
    """
    least, colon, most = text.partition(":")
    numbers = [int(part) if part.isdecimal() else 0 for part in ((least, most) if colon else (least,))]
    if min(numbers) < 1 or numbers != sorted(numbers):
        raise UserError(f"--workers {text}: give a number of at least 1, or the least and the most, such as 1:4")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
