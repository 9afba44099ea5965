"""A sweep's best against what it started from, on held-out images; and ASHA against whole trials.

    python benchmarks/sweep.py lseg --data WORLD --out DIR --config lseg_world --set model.text=run:CLIP --trials 20
    python benchmarks/sweep.py lseg --data WORLD --out DIR … --rules asha none

Runs a sweep for each of --rules with the same seed, then trains the start and each best with --seeds seeds, --parallel
at once, and evaluates them on the validation split, which no trial has seen. What is there is not done again. One JSON
line; budgets are epochs, since most of a small trial's seconds go into starting its processes.
"""

from __future__ import annotations

import argparse
import json
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ovseg_ray.cluster import WorkerResources, connect
from ovseg_ray.data import open_dataset
from ovseg_ray.evaluation.evaluate import evaluate
from ovseg_ray.evaluation.result import read_result
from ovseg_ray.training import resolve_config, train
from ovseg_ray.training.config import RunConfig, overrides_of
from ovseg_ray.tuning import SweepOptions, SweepSpace, read_space, summary, tune
from ovseg_ray.tuning.ledger import Ledger

RULES: dict[str, dict[str, Any]] = {
    "asha": {"name": "asha", "grace": 1, "reduction": 4},  # of its paper
    "none": {"name": "none"},
}


def measured(config: RunConfig, data: Path, out: Path, seeds: int, parallel: int) -> dict[str, Any]:
    """Held-out metrics of a configuration, one training a seed; for each its values, mean and range."""

    def trained(seed: int) -> Path:
        run = out / f"seed{seed}"
        seeded = config.model_copy(update={"training": config.training.model_copy(update={"seed": seed})})
        train(seeded, run, resume=True, worker=WorkerResources(1))
        return run

    with ThreadPoolExecutor(parallel) as pool:
        runs = list(pool.map(trained, range(seeds)))
    found: dict[str, list[float]] = {}
    for run in runs:
        file = run / "val.json"
        result = read_result(file) if file.is_file() else evaluate(run, open_dataset(data, "val"), out=file)
        metrics = next(iter(result["spaces"].values()))["metrics"]
        for name in ("miou", "miou_of_predicted", "seen_miou", "unseen_miou", "pixel_accuracy"):
            if metrics.get(name) is not None:
                found.setdefault(name, []).append(metrics[name])
    return {
        name: {"mean": statistics.fmean(values), "range": [min(values), max(values)], "values": values}
        for name, values in found.items()
    }


def spent(ledger: Ledger) -> dict[str, float]:
    """Epochs and seconds of training over all trials."""
    outcomes = [outcome for trial in ledger.trials() if (outcome := ledger.outcome(trial)) is not None]
    return {"epochs": sum(o.epochs for o in outcomes), "seconds": sum(o.seconds for o in outcomes)}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("--data", type=Path, required=True, help="what trials train on")
    parser.add_argument("--held-out", type=Path, help="data set whose validation split decides; default: --data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--space")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=["none"])
    given = parser.parse_args()
    held_out = given.held_out or given.data
    base = resolve_config(given.method, given.config, overrides_of(given.set, [given.data], given.config))
    space = read_space(given.space, given.method)
    result: dict[str, Any] = {"method": given.method, "trials": given.trials}
    with connect():
        for rule in given.rules:
            ruled = SweepSpace.model_validate({**space.model_dump(), "scheduler": RULES[rule]})
            options = SweepOptions(given.trials, parallel=given.parallel, resume=True)
            ledger = tune(base, ruled, given.out / rule, options)
            whole = given.trials * base.training.epochs
            best = resolve_config(given.method, str(given.out / rule / "best.yaml"), {})
            result[rule] = {
                **summary(ledger, given.out / rule),
                **spent(ledger),
                "share_of_full_budget": spent(ledger)["epochs"] / whole,
                "best_values": ledger.study.best_params,
                "start_in_sweep": ledger.trials()[0].value,
                "best_in_sweep": ledger.study.best_value,
                "held_out": measured(best, held_out, given.out / f"best-{rule}", given.seeds, given.parallel),
            }
        result["start"] = measured(base, held_out, given.out / "start", given.seeds, given.parallel)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
