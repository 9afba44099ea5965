"""What STEGO's training costs from a feature store, against running the backbone in every step.

    python benchmarks/stego_schedule.py --features features --neighbours neighbours.parquet

Both ways take the same steps on the same images; they alternate, so that whatever else the machine does meets both.
The one reads maps of an image and of its neighbour from the store, the other decodes both and runs the backbone (no
random augmentation takes part, as in the paper). Prints one JSON line: seconds of a step, and of the 5,000 published.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovseg_ray.data import open_dataset
from ovseg_ray.data.squares import squares_of
from ovseg_ray.feature_store.store import FeatureStore
from ovseg_ray.methods.stego import Stego, StegoConfig
from ovseg_ray.methods.stego.transform import StegoTransform
from ovseg_ray.training.config import resolve_config
from ovseg_ray.training.optimizer import build_optimizer

PUBLISHED_STEPS = 5000


class Steps:
    """A training that is taken step by step, one way or the other."""

    def __init__(self, features: str, neighbours: str | None, batch: int, preset: str | None) -> None:
        model = {"features": features, "neighbours": neighbours}
        run = resolve_config("stego", preset, {"model": model})
        config = StegoConfig.model_validate(run.model)
        torch.manual_seed(0)
        self._method = Stego(config).train()
        self._method.initialise()
        self._optimizer = build_optimizer(self._method.parameter_groups(), run.training.optimizer)
        self._store, self._batch = FeatureStore.open(features), batch
        self._transform, self._training = StegoTransform(config), open_dataset(features)
        job = self._store.info.job
        self._images = open_dataset(job["path"], job["split"])
        rows = self._images.index.column("image_id").to_pylist()
        self._rows = {name: row for row, name in enumerate(rows)}
        self._squares = config.squares

    def step(self, number: int, *, backbone: bool) -> float:
        """Seconds of a step."""
        rng = np.random.default_rng(number)
        rows = rng.choice(len(self._training), self._batch, replace=False)
        started = time.perf_counter()
        samples = [self._training.decoded(int(row)) for row in rows]
        examples = [self._transform(sample, 0, np.random.default_rng((number, i))) for i, sample in enumerate(samples)]
        batch = Stego.collate(examples)
        if backbone:
            started = time.perf_counter()  # what was read from the store does not count against this way
            # the neighbour is another image of the same batch size: which one it is costs the same
            for name, chosen in (("features", rows), ("neighbour", rng.permutation(rows))):
                batch[name] = self._maps(chosen)
        loss = torch.stack(list(self._method.losses(batch).values())).sum()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return time.perf_counter() - started

    def _maps(self, rows: Any) -> torch.Tensor:
        names = [self._training.row(int(row))["image_id"] for row in rows]
        samples = [replace(self._images.decoded(self._rows[name]), mask=None) for name in names]
        pictures = [squares_of(sample.image, None, self._squares)[0].image for sample in samples]
        inputs = [(torch.from_numpy(p) / 255 - self._mean) / self._std for p in pictures]
        with torch.inference_mode():
            maps = self._method.backbone(torch.stack(inputs).permute(0, 3, 1, 2).contiguous()).float()
        return maps.clone()

    @property
    def _mean(self) -> torch.Tensor:
        return torch.tensor(self._method.backbone.mean)

    @property
    def _std(self) -> torch.Tensor:
        return torch.tensor(self._method.backbone.std)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True, help="feature store, without crops")
    parser.add_argument("--neighbours", type=Path)
    parser.add_argument("--preset", help="as of 'ovseg-ray train stego --config'")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    table = str(given.neighbours) if given.neighbours else None
    steps = Steps(str(given.features), table, given.batch, given.preset)
    times: dict[bool, list[float]] = {False: [], True: []}
    for number in range(given.steps + 2):
        for backbone in (False, True):
            seconds = steps.step(number, backbone=backbone)
            if number >= 2:  # the first ones warm up
                times[backbone].append(seconds)
    store, run = float(np.median(times[False])), float(np.median(times[True]))
    result = {
        "batch": given.batch,
        "store_seconds_a_step": round(store, 4),
        "backbone_seconds_a_step": round(run, 4),
        "ratio": round(run / store, 2),
        "store_minutes_of_5000": round(store * PUBLISHED_STEPS / 60, 1),
        "backbone_minutes_of_5000": round(run * PUBLISHED_STEPS / 60, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
