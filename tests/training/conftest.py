"""Small trainings without Ray."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from colour_training import ColourConfig, write_colours
from training_tools import MakeConfig

import ovseg_ray.methods.registry as registry
from ovseg_ray.config import DataConfig, SourceConfig, TrainingConfig, merge
from ovseg_ray.training.config import RunConfig

SMALL = {"epochs": 2, "batch_size": 8, "log_every": 1, "optimizer": {"lr": 0.03}}


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 6 validation images of coloured blocks."""
    return write_colours(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(autouse=True)
def _register(monkeypatch: pytest.MonkeyPatch) -> None:
    """The methods of these tests go by name like any other."""
    monkeypatch.setitem(registry._METHODS, "colour", "colour_training:ColourTraining")
    monkeypatch.setitem(registry._METHODS, "pairs", "colour_training:ColourPairs")


@pytest.fixture
def make_config(colours: Path) -> MakeConfig:
    """A configuration over `colours`: keyword arguments are those of `training`."""

    def make(model: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **training: Any) -> RunConfig:
        return RunConfig(
            method="colour",
            model=ColourConfig(**(model or {})).model_dump(mode="json"),
            data=DataConfig(**{"sources": [SourceConfig(path=str(colours))], **(data or {})}),
            training=TrainingConfig(**merge(SMALL, training)),
        )

    return make


@pytest.fixture
def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
