from __future__ import annotations

import errno

import pytest
from typer import BadParameter

from ovseg_ray.commands.explain import causes, explain
from ovseg_ray.errors import UserError

MINE = UserError("a.jpg: damaged image; replace it")
FULL = OSError(errno.ENOSPC, "No space left on device", "/out/model.safetensors")
# what Ray Data leaves of a worker's error: only its text
OF_RAY_DATA = """ray::MapBatches(read)() (pid=7, ip=10.0.0.1)
  File "reader.py", line 5, in read
    raise UserError(message)
ovseg_ray.errors.UserError: a.jpg: damaged image; replace it

The above exception was the direct cause of the following exception:

ray.exceptions.UserCodeException: Failed to process the following data block:"""


class TaskError(Exception):
    """As Ray's: poses as its cause, but its text is a traceback."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("ray::task()\n  File ...")
        self.cause = cause


class WorkersError(Exception):
    """As Ray Train's."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__(f"{len(failures)} workers failed")
        self.worker_failures = failures


def chained(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


def test_a_wrong_choice_is_told_without_words_of_the_parser() -> None:
    wrong = BadParameter("Value error, 'bf32' is not one of 'fp32', 'bf16'", param_hint="'--precision'")
    assert explain(wrong) == ("invalid value for '--precision': 'bf32' is not one of 'fp32', 'bf16'", 2)


@pytest.mark.parametrize(
    "error",
    [
        MINE,
        chained(RuntimeError("could not go on"), MINE),
        TaskError(MINE),
        type("TaskErrorOfMine", (TaskError, UserError), {})(MINE),
        WorkersError({0: ValueError("x"), 1: TaskError(MINE)}),
        RuntimeError(OF_RAY_DATA),
    ],
    ids=["itself", "cause", "task", "task posing as its cause", "train", "text only"],
)
def test_a_users_mistake_is_found_however_deep(error: Exception) -> None:
    assert explain(error) == ("a.jpg: damaged image; replace it", 2)


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        TaskError(FULL),
        RuntimeError("SafetensorError: IO error: No space left on device (os error 28)"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "/out/x"),
    ],
    ids=["itself", "task", "text only", "quota"],
)
def test_a_full_disk_is_the_users_to_mend(error: Exception) -> None:
    line, code = explain(error)
    assert code == 2
    assert "no space left" in line
    assert "\n" not in line


def test_the_file_that_did_not_fit_is_named() -> None:
    assert explain(TaskError(FULL))[0].startswith("/out/model.safetensors: ")
    assert explain(RuntimeError(f"OSError: {FULL}"))[0].startswith("/out/model.safetensors: ")


@pytest.mark.parametrize(
    "error", [ValueError("first\nsecond"), ValueError(), FileNotFoundError(2, "No such file", "x")]
)
def test_anything_else_is_called_a_bug(error: Exception) -> None:
    line, code = explain(error)
    assert code == 1
    assert line.startswith(f"this is a bug: {type(error).__name__}: ")
    assert "\n" not in line
    assert "--debug" in line


def test_causes_end_where_errors_name_each_other() -> None:
    a, b = ValueError("a"), ValueError("b")
    a.__context__, b.__context__ = b, a
    assert list(causes(a)) == [a, b]
