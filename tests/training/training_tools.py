"""Trainings in this process, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from colour_training import ColourTraining

from ovseg_ray.methods.base import Method
from ovseg_ray.training.config import RunConfig
from ovseg_ray.training.loop import Loop, Worker
from ovseg_ray.training.session import Session

MakeConfig = Callable[..., RunConfig]


def make_loop(
    config: RunConfig, method: type[Method] = ColourTraining, worker: Worker | None = None, path: Path = Path("run")
) -> Loop:
    """A loop at its beginning."""
    session = Session(config, method, path)
    sources = session.sources()
    session = Session(config, method, path, tuple(sources.label_sets))
    return Loop(session.model(), config, sources, worker or Worker())


def curve(loop: Loop) -> list[dict[str, Any]]:
    """Metrics of the rest of a training."""
    records: list[dict[str, Any]] = []
    loop.run(records.append, lambda validate: None)
    return records
