"""The same global batch gives the same training, however many workers share it."""

from __future__ import annotations

import gc
import json
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_stego import make_store, make_table

from ovseg_ray.config import DataConfig, SourceConfig
from ovseg_ray.training.config import RunConfig, resolve_config
from ovseg_ray.training.loop import Loop, Worker
from ovseg_ray.training.session import Session


def run(config: RunConfig, worker: Worker) -> tuple[list[dict[str, float]], torch.Tensor]:
    """Losses of every step, and the trained weights."""
    from ovseg_ray.methods.stego import Stego

    session = Session(config, Stego, Path("run"))
    loop = Loop(session.model(), config, session.sources(), worker)
    records: list[dict[str, float]] = []
    loop.run(records.append, lambda validate: None)
    trained = torch.cat([p.detach().flatten() for p in loop.method.parameters() if p.requires_grad])
    terms = [{k: v for k, v in record.items() if k.startswith("loss/")} for record in records]
    return terms, trained


def work(rank: int, workers: int, port: int, configs: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    found = []
    for config in json.loads(configs):
        terms, weights = run(RunConfig.model_validate(config), Worker(rank, workers))
        found.append({"terms": terms, "weights": weights.tolist()})
    gc.collect()  # a DDP module that outlives its group can abort the process at exit
    if rank == 0:
        Path(out).write_text(json.dumps(found))
    dist.destroy_process_group()


def make_config(directory: Path, **training: object) -> RunConfig:
    store = make_store(directory / "store") if not (directory / "store").is_dir() else None
    table = directory / "near.parquet"
    if store is not None:
        make_table(table, store.info.features)
    model = {"features": str(directory / "store"), "neighbours": str(table), "width": 6}
    model["correspondence"] = {"points": 3, "negatives": 2}  # type: ignore[assignment]
    values = {"epochs": 4, "batch_size": 6, "log_every": 1, **training}
    config = resolve_config("stego", None, {"model": model, "training": values})
    return config.model_copy(update={"data": DataConfig(sources=[SourceConfig(path=str(directory / "store"))])})


# of a batch of 6: four have unequal shares
@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_processes_gives_the_training_of_one(tmp_path: Path, workers: int) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    configs = [make_config(tmp_path)]
    if workers == 2:  # a micro-batch of three
        configs.append(make_config(tmp_path, accumulate=2))
    text = json.dumps([config.model_dump(mode="json") for config in configs])
    mp.spawn(work, (workers, port, text, str(tmp_path / "out.json")), nprocs=workers)
    for config, found in zip(configs, json.loads((tmp_path / "out.json").read_text()), strict=True):
        terms, weights = run(config, Worker())
        assert len(terms) == 4
        for mine, theirs in zip(terms, found["terms"], strict=True):
            assert set(mine) == {f"loss/{name}" for name in ("self", "neighbours", "random", "cluster", "linear")}
            assert theirs == pytest.approx(mine, abs=1e-5)
        torch.testing.assert_close(torch.tensor(found["weights"]), weights, rtol=1e-4, atol=1e-5)
