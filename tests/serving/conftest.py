"""A tiny run, and the endpoint around it in this process, without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_tools import make_run
from starlette.testclient import TestClient

from ovseg_ray.serving.app import create_app
from ovseg_ray.serving.config import ServingConfig
from ovseg_ray.serving.engine import Engine


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("serving") / "lseg")


@pytest.fixture(scope="session")
def config(run: Path) -> ServingConfig:
    return ServingConfig.model_validate({"models": [{"run": str(run), "device": "cpu"}]})


@pytest.fixture(scope="session")
def engine(config: ServingConfig) -> Engine:
    engine = Engine()
    engine.load(config)
    return engine


@pytest.fixture
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(create_app(engine), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Engine]]:
    """(address, engine) of an endpoint that listens on a port."""
    from live import endpoint

    with endpoint(tmp_path_factory.mktemp("live")) as found:
        yield found
