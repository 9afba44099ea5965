"""`metrics.jsonl`: one JSON object a logged step, written by rank 0 and by the validation task."""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ovseg_ray.errors import UserError


def append_metrics(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line; a validation that is there already (a task that ran twice) is not added again.

    Raises:
        UserError: it cannot be written.
    """
    with _locked(path) as file:
        if "validation" in record:
            known = (_parsed(line) for line in file)
            if any(r is not None and "validation" in r and r["step"] == record["step"] for r in known):
                return
        file.seek(0, 2)
        file.write(json.dumps(_finite(record)).encode() + b"\n")


def truncate_metrics(path: Path, step: int) -> None:
    """Drop what was logged after `step`, and half-written lines: the training goes on from there.

    Raises:
        UserError: it cannot be written.
    """
    with _locked(path) as file:
        lines = file.readlines()
        records = [_parsed(line) for line in lines]
        kept = [line for line, r in zip(lines, records, strict=True) if r is not None and r["step"] <= step]
        if len(kept) == len(lines):
            return
        file.seek(0)
        file.writelines(kept)
        file.truncate()


def read_metrics(path: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Records from a byte of the file on; a line still being written is left for later.

    Args:
        path: of the file, which need not be there yet.
        start: where the last reading ended; a file that was cut since is read from its beginning.

    Returns:
        The records, and where to go on.
    """
    if not path.is_file():
        return [], 0
    with path.open("rb") as file:
        file.seek(start if start <= path.stat().st_size else 0)
        data = file.read()
        end = file.tell() - len(data) + data.rfind(b"\n") + 1
    lines = data.splitlines(keepends=True)
    return [record for line in lines if (record := _parsed(line)) is not None], end


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room or choose another --out") from error


def _parsed(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "step" in record else None


def _finite(value: Any) -> Any:
    """NaN (a class that never occurs) as null: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
