"""What a training run leaves behind, and how one tells a whole run from half of one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ovseg_ray.config import read_yaml
from ovseg_ray.errors import UserError


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run.

    `config.yaml`, `provenance.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/` (Ray Train's),
    `model/` (safetensors and `model.json`; there only once training ended), `best/` (models like it, one for each of
    the best validations), `report/`.
    """

    path: Path

    @property
    def config_file(self) -> Path:
        """The resolved configuration, every key."""
        return self.path / "config.yaml"

    @property
    def metrics_file(self) -> Path:
        """One JSON object a logged step."""
        return self.path / "metrics.jsonl"

    @property
    def provenance_file(self) -> Path:
        """Hashes, seed, package versions, world size."""
        return self.path / "provenance.json"

    @property
    def checkpoints(self) -> Path:
        """Ray Train's directory of this run."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The exported model."""
        return self.path / "model"

    @property
    def best(self) -> Path:
        """Exported models of the best validations, one directory each."""
        return self.path / "best"

    @property
    def report(self) -> Path:
        """Pictures and pages."""
        return self.path / "report"

    @property
    def finished(self) -> bool:
        """Whether training ended and the model was exported."""
        return (self.model / "model.json").is_file()

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any], *, resume: bool) -> RunDirectory:
        """Make a run directory, or take up an existing one of the same configuration.

        Args:
            path: where.
            config: the resolved configuration.
            resume: continue the run that is there.

        Raises:
            UserError: as `check`; or it cannot be written.
        """
        run = cls.check(path, config, resume=resume)
        if run.config_file.is_file():
            return run
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: cannot be made ({error.strerror}); choose another --out") from error
        write_atomically(run.config_file, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        return run

    @classmethod
    def check(cls, path: Path, config: Mapping[str, Any], *, resume: bool) -> RunDirectory:
        """Whether a run may be made or go on there; nothing is written. Arguments are those of `create`.

        Raises:
            UserError: `path` holds something else, a different run, or a run and `resume` was not asked for.
        """
        run = cls(path.absolute())
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: is a file; give a directory for the run")
        if run.config_file.is_file():
            known = read_yaml(run.config_file)
            if known != json.loads(json.dumps(config)):
                key = first_difference(known, json.loads(json.dumps(config)))
                way = "leave that as it was to continue, or " if resume else ""
                raise UserError(f"{path}: already holds a different run ({key} differs); {way}choose another --out")
            if not resume:
                raise UserError(f"{path}: already holds this run; add --resume to continue it, or choose another --out")
        elif path.is_dir() and not is_empty(path):
            raise UserError(f"{path}: is not empty and holds no run; choose an empty or new directory for --out")
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """A finished run to read from.

        Raises:
            UserError: no run there, or one that has not finished.
        """
        run = cls(Path(path).absolute())
        if not run.path.exists():
            raise UserError(f"{path}: no such run; train one with 'ovseg-ray train METHOD --data DATA --out {path}'")
        if not run.finished:
            if run.config_file.is_file():
                raise UserError(f"{path}: this run has not finished; continue it with the same command and --resume")
            raise UserError(f"{path}: is not a run directory (no model/model.json); give the --out of a training")
        return run


def find_model(path: Path) -> Path:
    """The model directory meant by a run directory, a model directory or a demo's output.

    Raises:
        UserError: there is none, or the run has not finished.
    """
    for candidate in (path, path / "model", path / "lseg" / "model"):
        if (candidate / "model.json").is_file():
            return candidate
    return RunDirectory.open(path).model  # says what is wrong


def is_empty(directory: Path) -> bool:
    """Whether a directory holds nothing but what a killed writer left half-written."""
    return all(path.name.endswith(".partial") for path in directory.iterdir())


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that is there whole or not at all.

    Raises:
        UserError: it cannot be written (full disk, no permission).
    """
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # where the parent is a file there is nothing to remove either
            partial.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room or choose another place") from error


def write_directory_atomically(path: Path, fill: Callable[[Path], None]) -> None:
    """Fill a directory that appears under its name only once it is whole; an older one is replaced.

    Raises:
        UserError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir(parents=True)
        fill(partial)
        if path.exists():
            shutil.rmtree(path)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room or choose another place") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def first_difference(a: Any, b: Any, prefix: str = "") -> str:
    """Dotted name of the first key in which two nested mappings differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(k for k in b if k not in a)]:
            if a.get(key) != b.get(key):
                return first_difference(a.get(key), b.get(key), f"{prefix}.{key}" if prefix else str(key))
    return prefix or "configuration"
