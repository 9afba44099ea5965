"""An endpoint of two small random models that listens on a port, for clients that need a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI

from ovseg_ray.config import build
from ovseg_ray.methods.export import save_model
from ovseg_ray.methods.lseg import LSeg, LSegConfig
from ovseg_ray.serving.app import create_app
from ovseg_ray.serving.config import ServingConfig
from ovseg_ray.serving.engine import Engine
from ovseg_ray.serving.samples import SCENES, sample
from ovseg_ray.vocabulary import Vocabulary
from ovseg_ray.vocabulary.table_encoder import TableTextEncoder

TRAINED = ("grass", "sand", "snow")
WORDS = sorted({label for number in range(len(SCENES)) for label in sample(number).labels} | {"sky", "ground", "turf"})


def make_engine(directory: Path, names: tuple[str, ...] = ("first", "second"), **settings: object) -> Engine:
    """Models of one architecture, the weights of each its own; they know `WORDS`."""
    runs = []
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        method = LSeg(build(LSegConfig, {"text": "table:/gone.npz", "width": 8, "encoder": {"channels": [8, 8, 8, 8]}}))
        method.use_text_encoder(TableTextEncoder(WORDS, torch.randn(len(WORDS), 16)))
        save_model(method, directory / name / "model", vocabularies=[Vocabulary.of(list(TRAINED))], provenance={})
        runs.append({"run": str(directory / name), "device": "cpu"})
    config = ServingConfig.model_validate({"models": runs, **settings})
    engine = Engine()
    engine.load(config)
    return engine


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The address of a server in a thread of this process."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def endpoint(directory: Path, **settings: object) -> Iterator[tuple[str, Engine]]:
    """Address and engine."""
    engine = make_engine(directory, **settings)  # type: ignore[arg-type]
    with listening(create_app(engine)) as url:
        yield url, engine
