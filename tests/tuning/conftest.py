"""Small sweeps of the tests' own method."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

# whose methods, images and stores these tests use
sys.path.extend(str(Path(__file__).parents[1] / name) for name in ("training", "methods"))
from colour_training import ColourConfig, write_colours
from trials import MakeBase

import ovseg_ray.methods.registry as registry
from ovseg_ray.config import DataConfig, SourceConfig, TrainingConfig, build, merge
from ovseg_ray.training.config import RunConfig
from ovseg_ray.tuning.space import SweepSpace

SMALL = {"epochs": 4, "batch_size": 4, "log_every": 1, "optimizer": {"lr": 0.03}}
LR: dict[str, Any] = {"type": "float", "low": 0.001, "high": 1.0, "log": True}


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 6 validation images of coloured blocks."""
    return write_colours(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(autouse=True)
def _register(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method of these tests goes by name like any other."""
    monkeypatch.setitem(registry._METHODS, "colour", "colour_training:ColourTraining")


@pytest.fixture
def make_base(colours: Path) -> MakeBase:
    """A configuration over `colours`: keyword arguments are those of `training`."""

    def make(model: dict[str, Any] | None = None, **training: Any) -> RunConfig:
        return RunConfig(
            method="colour",
            model=ColourConfig(**(model or {})).model_dump(mode="json"),
            data=DataConfig(sources=[SourceConfig(path=str(colours))]),
            training=TrainingConfig(**merge(SMALL, training)),
        )

    return make


@pytest.fixture
def space() -> SweepSpace:
    """One learning rate."""
    return build(SweepSpace, {"startup_trials": 2, "space": {"training.optimizer.lr": LR}})
