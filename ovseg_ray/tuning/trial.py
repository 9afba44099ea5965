"""One trial: an ordinary training, in Ray Tune's hands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg_ray.cluster import WorkerResources
from ovseg_ray.errors import UserError
from ovseg_ray.run_directory import RunDirectory
from ovseg_ray.training.config import RunConfig
from ovseg_ray.training.metrics import read_metrics
from ovseg_ray.training.watch import repeated
from ovseg_ray.tuning.check import configured
from ovseg_ray.tuning.space import MEASURED, Asha, Pbt, SweepSpace, Value

POLL_S = 0.5


class NoSuchObjectiveError(UserError):
    """What no other trial would do better at."""


@dataclass(frozen=True)
class TrialJob:
    """What all trials of a sweep are told.

    Attributes:
        base: configuration that the sweep started from.
        space: of the sweep.
        path: of the sweep, on storage that every process sees.
        workers: training processes of a trial.
        worker: what each of them takes of the cluster.
    """

    base: RunConfig
    space: SweepSpace
    path: Path
    workers: int
    worker: WorkerResources

    def run(self, number: int) -> RunDirectory:
        """Run directory of a trial."""
        return RunDirectory(self.path / "trials" / f"{number:04d}")

    @property
    def text_cache(self) -> Path:
        """Vectors of prompts, encoded once for all trials."""
        return self.path / "text"


def trial_config(base: RunConfig, space: SweepSpace, values: Mapping[str, Value]) -> RunConfig:
    """What a trial trains with: compared on images cut out of the training split, at every rung or exchange.

    Raises:
        UserError: the configuration refuses the values.
    """
    config = configured(base, values)
    every = config.training.validate_every or config.training.epochs
    if isinstance(space.scheduler, Asha):
        every = min(every, space.scheduler.grace)
    if isinstance(space.scheduler, Pbt):
        every = min(every, space.scheduler.interval)
    data = config.data.model_copy(update={"validation_share": space.validation_share})
    training = config.training.model_copy(update={"validate_every": every, "keep_best": 0, "keep_last": 1})
    return config.model_copy(update={"data": data, "training": training})


def run_trial(config: dict[str, Any], job: TrialJob) -> None:
    """What Ray Tune calls, in a process of its own.

    Whatever goes wrong becomes the reason of a failed trial; only the death of the process itself is Ray Tune's.

    Args:
        config: "number" and "values" of the trial; "until": epoch to stop at for now.
        job: of the sweep.
    """
    from ray import tune

    run = job.run(config["number"])
    try:
        metrics = _train(config, job, run, tune.report)
        if config.get("until") is not None:
            assert job.space.curve is not None  # of a space with exchanges
            score = _objective(job.space.curve.metric, metrics, run)
            tune.report({"final": True, "reached": config["until"], "score": score})
            return
        values = [_objective(o.metric, metrics, run) for o in job.space.objectives]
    except Exception as error:
        hopeless = isinstance(error, NoSuchObjectiveError)
        tune.report({"final": True, "failed": reason_of(error), "hopeless": hopeless})
        return
    tune.report({"final": True, "values": values})


def _train(
    config: dict[str, Any], job: TrialJob, run: RunDirectory, report: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Train, telling validations as they come.

    Returns:
        Metrics of the last validation.
    """
    from ovseg_ray.training import train

    resolved = trial_config(job.base, job.space, config["values"])
    objective = job.space.curve
    with _telling(run.metrics_file, objective.metric if objective else "", report):
        train(
            resolved, run.path, workers=job.workers, resume=True, worker=job.worker, text_cache=job.text_cache,
            until=config.get("until"),
        )  # fmt: skip
    records = read_metrics(run.metrics_file)[0]
    found = [record for record in records if "validation" in record or "validation_error" in record]
    if not found:
        raise UserError("no validation took place; the data set has no masks or no images to validate on")
    if "validation_error" in found[-1]:
        raise UserError(f"validation failed: {found[-1]['validation_error']}")
    metrics: dict[str, Any] = found[-1]["validation"]
    return metrics


def _objective(metric: str, metrics: Mapping[str, Any], run: RunDirectory) -> float:
    if metric in MEASURED:
        from ovseg_ray.tuning.measure import measure

        return measure(run, metric)
    if metric not in metrics:
        raise NoSuchObjectiveError(
            f"objective '{metric}': validation has {', '.join(sorted(metrics))}; name one of them"
        )
    value = metrics[metric]
    if value is None or not math.isfinite(value):
        raise UserError(f"objective '{metric}' is not a number after training")
    return float(value)


@contextmanager
def _telling(metrics: Path, metric: str, report: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Report every validation of a run, and how far training is, while the block runs."""
    with repeated(_Teller(metrics, metric, report).tell, POLL_S):
        yield


class _Teller:
    def __init__(self, metrics: Path, metric: str, report: Callable[[dict[str, Any]], None]) -> None:
        self._metrics, self._metric, self._report = metrics, metric, report
        self._position, self._epoch = 0, 0.0

    def tell(self) -> None:
        records, self._position = read_metrics(self._metrics, self._position)
        epochs = [record["epoch"] for record in records if "loss" in record]
        for record in records:
            value = (record.get("validation") or {}).get(self._metric)
            if value is not None:
                self._report({"epoch": record["epoch"], "value": value})
        if epochs and epochs[-1] > self._epoch:
            self._epoch = epochs[-1]
            self._report({"at": self._epoch})


def reason_of(error: BaseException) -> str:
    """One line for an error of a trial."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines)[:400] if lines else "no message"
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
