"""Trainings in this process, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def tell_deviation(found: Sequence[float], expected: Sequence[float]) -> None:
    """Print the largest relative deviation of two loss curves; `pytest -s` shows it."""
    largest = max(abs(f / e - 1) for f, e in zip(found, expected, strict=True))
    print(f"largest relative deviation of a loss in {len(expected)} steps: {largest:.1e}")
