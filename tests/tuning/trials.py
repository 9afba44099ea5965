"""Trials for tests, found by Ray's workers under this module's name: quick ones without a training, and real ones."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

import ovseg_ray.methods.registry as registry
from ovseg_ray.errors import UserError
from ovseg_ray.training.config import RunConfig
from ovseg_ray.training.metrics import append_metrics, read_metrics
from ovseg_ray.tuning.trial import TrialJob, run_trial

MakeBase = Callable[..., RunConfig]


def colour_trial(config: dict[str, Any], job: TrialJob) -> None:
    """A whole training of the tests' own method."""
    registry._METHODS["colour"] = "colour_training:ColourTraining"
    run_trial(config, job)


def ran(out: Path) -> Counter[str]:
    """How often each epoch of each quick trial of a sweep ran."""
    return Counter(path.name.rsplit("-", 1)[0] for path in (out / "ran").iterdir())


def quick_trial(config: dict[str, Any], job: TrialJob) -> None:
    """Epochs of a few milliseconds: the nearer lr is to 0.1, the better. It goes on where it was, as a training does.

    Each epoch that runs leaves a mark, so that one that ran twice would show. While the base's `flag` is there none
    gets beyond its second epoch.
    """
    number, values = config["number"], config["values"]
    run = job.run(number)
    run.path.mkdir(parents=True, exist_ok=True)
    ran = Path(job.path / "ran")
    ran.mkdir(exist_ok=True)
    records = read_metrics(run.metrics_file)[0]
    for record in records:
        if "validation" in record:
            tune.report({"epoch": record["epoch"], "value": record["validation"]["miou"]})
    if (run.path / "kill").exists():  # as a node that goes
        (run.path / "kill").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    score = 0.0
    for epoch in range(1, int(job.base.training.epochs) + 1):
        score = epoch - abs(math.log10(values["training.optimizer.lr"]) + 1)
        if any(record["epoch"] == epoch for record in records):
            continue
        while epoch > 2 and Path(job.base.model["flag"] or "/none").exists():
            time.sleep(0.02)
        time.sleep(job.base.model["seconds"])
        (ran / f"{number}-{epoch}-{time.time_ns()}").touch()
        append_metrics(run.metrics_file, {"step": epoch, "epoch": epoch, "loss": 1.0, "seconds": float(epoch)})
        append_metrics(run.metrics_file, {"step": epoch, "epoch": epoch, "validation": {"miou": score}})
        tune.report({"epoch": epoch, "value": score})
    if number == 1:
        tune.report({"final": True, "failed": str(UserError("step 3: the loss is not finite"))})
        return
    (run.path / "result.json").write_text(json.dumps(score))
    tune.report({"final": True, "values": [score]})
