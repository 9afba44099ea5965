"""Images a second that reach a training worker: a torch DataLoader against Ray Data.

    python benchmarks/input_path.py --data FOLDER_OF_PHOTOGRAPHS_WITH_MASKS [--config lseg] [--steps 60]

The same batches of the same plan, nobody trains on them: what decoding, augmenting, collating and handing over cost.
Ways are taken in turns; each is what one worker gets. The batches of all ways are compared.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

from ovseg_ray.cluster import connect
from ovseg_ray.config import DataConfig
from ovseg_ray.data import open_dataset
from ovseg_ray.methods.base import Method
from ovseg_ray.methods.registry import get_method
from ovseg_ray.training.config import resolve_config
from ovseg_ray.training.input import Examples, batches
from ovseg_ray.training.plan import Plan
from ovseg_ray.training.session import Session

WAYS = {
    "loader, in the worker": {"input": "loader", "loader_workers": 0},
    "loader, 1 process": {"input": "loader", "loader_workers": 1},
    "loader, 2 processes": {"input": "loader", "loader_workers": 2},
    "ray_data, 1 task": {"input": "ray_data", "loader_workers": 1},
    "ray_data, 2 tasks": {"input": "ray_data", "loader_workers": 2},
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--config", default="lseg")
    parser.add_argument("--steps", type=int, default=60, help="of a turn, after ten to warm up")
    parser.add_argument("--turns", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, connect(None):
        names = open_dataset(given.data, "train").require_masks().names
        path = Path(directory) / "text.npz"
        np.savez(path, names=np.array(names), embeddings=np.random.default_rng(0).normal(size=(len(names), 256)))
        overrides = {
            "model": {"text": f"table:{path}", "templates": ["{}"]},
            "data": {"sources": [{"path": str(given.data.absolute())}]},
            "training": {"epochs": 1000},
        }
        config = resolve_config("lseg", given.config, overrides)
        session = Session(config, get_method(config.method), Path("."))
        sources = session.sources()
        model_config = Session(config, session.method, Path("."), tuple(sources.label_sets)).model().config
        plan = Plan.of(config.training, len(sources), 1)
        rates: dict[str, list[float]] = {way: [] for way in WAYS}
        hashes = set()
        for _ in range(given.turns):
            for way, values in WAYS.items():
                data = config.data.model_copy(update=values)
                examples = Examples(sources, session.method, model_config, 0, cache=False)
                rate, digest = measure(examples, session.method, plan, data, given.steps)
                rates[way].append(rate * config.training.batch_size)
                hashes.add(digest)
    assert len(hashes) == 1, "the ways gave different batches"
    base = statistics.median(next(iter(rates.values())))
    for way, found in rates.items():
        rate = statistics.median(found)
        print(f"{way:24} {rate:8.1f} images/s  {rate / base:5.2f} x  (turns {', '.join(f'{r:.1f}' for r in found)})")


def measure(examples: Examples, method: type[Method], plan: Plan, data: DataConfig, steps: int) -> tuple[float, str]:
    """Steps a second, and a hash of all that came."""
    digest = hashlib.sha256()
    stream = batches(examples, method, plan, data, rank=0, first_step=0, pin=False)
    started = 0.0
    for number, group in enumerate(islice(stream, steps + 10)):
        if number == 10:
            started = time.perf_counter()
        for batch in group:
            digest.update(batch["image"].flatten()[::997].numpy().tobytes())
    return (steps - 1) / (time.perf_counter() - started), digest.hexdigest()


if __name__ == "__main__":
    main()
