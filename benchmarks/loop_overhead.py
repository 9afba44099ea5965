"""What the exact loop costs over a bare DDP loop of the same model on the same images.

    ovseg-ray world data/world --scenes 500
    python benchmarks/loop_overhead.py --data data/world [--config lseg_world] [--workers 2]

Both sides have the same network, optimiser, precision, transforms and number of images a step; text vectors are random.
The bare loop: DistributedSampler, DataLoader, forward, backward, step, each worker's own batch statistics and mean of
the loss. The exact loop: the plan, batch statistics of its groups, means over the global batch, augmentation by image,
metrics every `log_every` steps, the check for what is not finite. Rounds of both are taken in turns; the ratio is that
of the medians.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ovseg_ray.data import open_dataset
from ovseg_ray.methods.base import Batch, Method
from ovseg_ray.methods.precision import training_dtype
from ovseg_ray.methods.registry import get_method
from ovseg_ray.training.config import RunConfig, resolve_config
from ovseg_ray.training.input import Examples, batches, to_device
from ovseg_ray.training.loop import Loop, Worker
from ovseg_ray.training.optimizer import build_optimizer
from ovseg_ray.training.session import Session


class _Bare(Dataset[object]):
    def __init__(self, examples: Examples, count: int) -> None:
        self._examples, self._count = examples, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> object:
        return self._examples[0, index]


class _Sum(nn.Module):
    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch) -> torch.Tensor:
        return torch.stack(list(self.method.losses(batch).values())).sum()


def bare_steps(
    method: Method, config: RunConfig, examples: Examples, count: int, rank: int, workers: int
) -> Iterator[None]:
    """One optimiser step of a plain loop at each `next`."""
    training = config.training
    if training.channels_last:
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch declares no such overload
    dataset = _Bare(examples, count)
    sampler: DistributedSampler[object] = DistributedSampler(dataset, workers, rank, drop_last=True)
    loader = DataLoader(
        dataset, training.batch_size // workers, sampler=sampler, drop_last=True, collate_fn=type(method).collate
    )
    optimizer = build_optimizer(method.parameter_groups(), training.optimizer)
    network = DistributedDataParallel(_Sum(method), broadcast_buffers=False, gradient_as_bucket_view=True)
    dtype = training_dtype(training.precision, torch.device("cpu"))
    while True:
        for batch in loader:
            local = to_device(batch, torch.device("cpu"), channels_last=training.channels_last)
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = network(local)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield


def exact_steps(loop: Loop, config: RunConfig, examples: Examples, rank: int) -> Iterator[None]:
    """One step of the package's loop at each `next`."""
    for group in batches(examples, type(loop.method), loop.plan, config.data, rank=rank, first_step=0, pin=False):
        loop.train_step(group, measure=(loop.step + 1) % config.training.log_every == 0)
        yield


def run(rank: int, config: RunConfig, given: argparse.Namespace, port: int) -> None:
    """One worker."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=given.workers)
    session = Session(config, get_method(config.method), Path("."))
    sources = session.sources()
    session = Session(config, session.method, Path("."), tuple(sources.label_sets))
    method = session.model()
    plain = copy.deepcopy(method)
    examples = Examples(sources, session.method, method.config, 0, cache=True)
    for index in range(len(sources)):
        examples[0, index]  # decoded once, for both sides
    loop = Loop(method, config, sources, Worker(rank, given.workers))
    method.train()
    plain.train()
    sides = {
        "bare": bare_steps(plain, config, examples, len(sources), rank, given.workers),
        "exact": exact_steps(loop, config, examples, rank),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(given.rounds + 1):
        for name, steps in sides.items():
            dist.barrier()
            started = time.perf_counter()
            for _ in range(given.steps):
                next(steps)
            dist.barrier()
            seconds[name].append((time.perf_counter() - started) / given.steps)
    if rank == 0:
        bare, exact = (statistics.median(times[1:]) for times in seconds.values())
        ratios = [e / b for b, e in zip(seconds["bare"][1:], seconds["exact"][1:], strict=True)]
        print(f"bare {1000 * bare:.1f} ms a step, exact {1000 * exact:.1f} ms, ratio {exact / bare:.3f}")
        print(f"rounds: {' '.join(f'{ratio:.3f}' for ratio in ratios)}")
    del sides, loop, steps  # DDP's reducers go before their process group
    dist.destroy_process_group()


def random_texts(data: Path, directory: str) -> str:
    """A table of random vectors for the labels of a data set."""
    names = open_dataset(data, "train").require_masks().names
    path = Path(directory) / "text.npz"
    np.savez(path, names=np.array(names), embeddings=np.random.default_rng(0).normal(size=(len(names), 256)))
    return f"table:{path}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--config", default="lseg_world")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="of a round")
    parser.add_argument("--rounds", type=int, default=8, help="of each side, after one to warm up")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        overrides = {
            "model": {"text": random_texts(given.data, directory), "templates": ["{}"]},
            "data": {"sources": [{"path": str(given.data.absolute())}]},
            "training": {"epochs": 1000},
        }
        config = resolve_config("lseg", given.config, overrides)
        mp.spawn(run, (config, given, 29_500 + os.getpid() % 2000), nprocs=given.workers)


if __name__ == "__main__":
    main()
