"""One line for every error, however deep in Ray it happened."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterator

from typer.exceptions import TyperException

from ovseg_ray.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def explain(error: BaseException) -> tuple[str, int]:
    """What to print for an error.

    Returns:
        One line, and the exit code: 2 if the user can mend it, 1 for a fault of the program.
    """
    for cause in causes(error):
        # type, not isinstance: a RayTaskError poses as its cause, with the worker's whole traceback for a text
        if type(cause) is UserError:
            return _one_line(str(cause)), 2
        if isinstance(cause, TyperException):
            return _usage(cause), 2
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            return _disk_full(cause.filename), 2
    for cause in causes(error):  # Ray Data and dying actors keep of the cause only what it printed
        if told := re.findall(r"^(?:\w+\.)*UserError: (.+)$", str(cause), re.MULTILINE):
            return _one_line(told[-1]), 2
        if full := re.findall(r"(?:No space left on device|Disk quota exceeded)(?:[^:\n]*: '([^'\n]*)')?", str(cause)):
            return _disk_full(full[-1]), 2
    text = _one_line(str(error)) or "no message"
    return f"this is a bug: {type(error).__name__}: {text[:300]}; --debug shows where", 1


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from, through Ray's wrappers too (`cause`, `worker_failures`)."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        item = waiting.pop(0)
        if not isinstance(item, BaseException) or any(item is known for known in found):
            continue
        found.append(item)
        yield item
        failures = getattr(item, "worker_failures", None) or {}
        waiting += [getattr(item, "cause", None), *failures.values(), item.__cause__, item.__context__]


def _usage(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    possible = getattr(error, "possibilities", None)
    # the parser's own text, without its list of possible options
    message = _one_line(error.message if possible else error.format_message()).rstrip(".?").replace(". Did", "; did")
    message = message.replace(": Value error, ", ": ")  # pydantic's
    if possible:
        near = difflib.get_close_matches(str(getattr(error, "option_name", "")), possible, n=1) or sorted(possible)
        message += f"; did you mean {near[0]}?"
    help_of = f"; see '{context.command_path} --help'" if context is not None else ""
    return f"{message[:1].lower()}{message[1:]}{help_of}"


def _disk_full(path: str | None) -> str:
    return f"{path or 'disk'}: no space left on the device; make room or choose another place for the output"


def _one_line(text: str) -> str:
    return " ".join(text.split())
