"""A sweep: many trainings of one method, to find the configuration that does best."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ovseg_ray.cluster import WorkerResources
from ovseg_ray.config import read_yaml
from ovseg_ray.errors import UserError
from ovseg_ray.methods.registry import get_method
from ovseg_ray.run_directory import first_difference, is_empty, write_atomically
from ovseg_ray.training.batch_norm import groups_of
from ovseg_ray.training.config import RunConfig
from ovseg_ray.training.plan import Plan
from ovseg_ray.training.session import Session
from ovseg_ray.training.sources import open_sources
from ovseg_ray.training.train import with_absolute_paths
from ovseg_ray.tuning.asha import Halving
from ovseg_ray.tuning.best import write_best
from ovseg_ray.tuning.check import check_space
from ovseg_ray.tuning.ledger import Ledger, default_values, open_study
from ovseg_ray.tuning.live import LiveTable
from ovseg_ray.tuning.report import write_report
from ovseg_ray.tuning.search import Places, StudySearch
from ovseg_ray.tuning.space import SCALES, Asha, Pbt, SweepSpace
from ovseg_ray.tuning.trial import TrialJob, run_trial, trial_config

# Of the process that watches a trial; its workers take what they need themselves. Ray Tune wants it to take something,
# and a sliver of a CPU would keep a validation, which wants a whole one, from the last that is free.
WATCHER = {"memory": 2**20}


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep is run; of these, seed and the number of trials at once decide what is suggested.

    Attributes:
        trials: in all, over every start of the sweep.
        seed: of the suggestions.
        workers: training processes of a trial.
        parallel: trials at once; None follows the cluster, and grows as nodes join.
        gpus: of each worker where the cluster has any; a fraction shares one.
        resume: go on with the sweep that is there.
    """

    trials: int = 20
    seed: int = 0
    workers: int = 1
    parallel: int | None = None
    gpus: float = 1.0
    resume: bool = False


def tune(base: RunConfig, space: SweepSpace, out: Path, options: SweepOptions, *, source: str = "space") -> Ledger:
    """Run a sweep to its end, and leave `best.yaml`, `study.db` and `report.html`.

    Ray must be connected (`ovseg_ray.cluster.connect`). Trials are compared on images cut out of the training split;
    the validation split is never looked at. Trial 0 is the configuration as given.

    Args:
        base: configuration that trials start from.
        space: what to look for, and where.
        out: directory of the sweep, on storage that every process sees.
        options: how.
        source: what errors call the space.

    Raises:
        UserError: a space that does not fit the method, data that does not fit, a directory with something else, or
            a sweep of which no trial was completed.
    """
    base, out = with_absolute_paths(base), out.absolute()
    # a mistake in the data is told before one in the space
    images = _images(trial_config(base, space, {}))
    _check_plan(base, images, options.workers)
    check_space(space, base, source, lambda config: _check_plan(config, images, options.workers))
    _check_scheduler(base, space, options, source)
    worker, count = _shares(options)
    _open_directory(out, base, space, options)
    with _alone(out):
        return _sweep(base, space, out, options, (worker, count), images)


def _sweep(
    base: RunConfig,
    space: SweepSpace,
    out: Path,
    options: SweepOptions,
    shares: tuple[WorkerResources, Callable[[], int]],
    images: int,
) -> Ledger:
    worker, count = shares
    job = TrialJob(base, space, out, options.workers, worker)
    encode_texts(job)
    ledger = Ledger(
        open_study(out / "study.db", base.method, space), space, options.seed,
        default_values(space, base.model_dump(mode="json")), _halving(space, base.training.epochs),
    )  # fmt: skip
    if len([t for t in ledger.trials() if ledger.outcome(t) is not None]) < options.trials:
        print(
            f"tune: {options.trials} trials, {Places(options.parallel, count)()} at once, {images} training images",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        try:
            _fit(job, ledger, options, count)
        except KeyboardInterrupt:
            write_report(out / "report.html", job, ledger)
            print(f"tune: {out} keeps what is known; the same command with --resume goes on", file=sys.stderr)
            raise
    ledger.close()
    found = write_best(out, base, ledger)
    write_report(out / "report.html", job, ledger)
    if not found and (open_ := ledger.unfinished()):
        raise UserError(f"{out}: no trial was completed, {len(open_)} are unfinished; add --resume to go on")
    if not found:
        raise UserError(f"{out}: no trial was completed{_first_reason(ledger)}; mend that and choose another --out")
    return ledger


def _first_reason(ledger: Ledger) -> str:
    outcomes = [(trial.number, ledger.outcome(trial)) for trial in ledger.trials()]
    failed = [(number, outcome.reason) for number, outcome in outcomes if outcome and outcome.state == "failed"]
    return f"; trial {failed[0][0]} failed: {failed[0][1]}" if failed else ""


def _images(config: RunConfig) -> int:
    """Training images of a trial; what is wrong with the data sets is met here."""
    return len(open_sources(config.data, masks=get_method(config.method).segments))


def _check_plan(config: RunConfig, images: int, workers: int) -> None:
    plan = Plan.of(config.training, images, workers)
    if config.training.batch_norm_images is not None:
        groups_of(config.training.batch_norm_images, plan.shares)


def _halving(space: SweepSpace, epochs: float) -> Halving | None:
    if not isinstance(space.scheduler, Asha):
        return None
    assert space.curve is not None  # the space has been checked
    return Halving(space.scheduler, space.curve, epochs)


def _check_scheduler(base: RunConfig, space: SweepSpace, options: SweepOptions, source: str) -> None:
    rule, training = space.scheduler, base.training
    if training.steps is not None and isinstance(rule, Asha | Pbt):
        raise UserError(
            f"training.steps = {training.steps}: the scheduler of {source} counts epochs; "
            "add --set training.steps=null --set training.epochs=N"
        )
    if not isinstance(rule, Pbt):
        return
    if rule.interval >= training.epochs:
        raise UserError(
            f"{source}: scheduler.interval = {rule.interval:g}: no exchange takes place within training.epochs = "
            f"{training.epochs:g}; lower it"
        )
    if "training.epochs" in space.space:
        raise UserError(f"{source}: 'training.epochs': trials of a population (pbt) train in step; take it out")
    if training.schedule.scales:
        raise UserError(f"{SCALES}: is what scheduler pbt finds; leave it empty")
    if options.trials < 2:
        raise UserError(f"--trials {options.trials}: a population (pbt) is two trials or more")


def _open_directory(out: Path, base: RunConfig, space: SweepSpace, options: SweepOptions) -> None:
    file = out / "sweep.yaml"
    content = {
        "method": base.method,
        "seed": options.seed,
        "base": base.model_dump(mode="json"),
        "space": space.model_dump(mode="json"),
    }
    if isinstance(space.scheduler, Pbt):  # who gives up depends on who there is: it cannot grow
        content["trials"] = options.trials
    if file.is_file():
        known = read_yaml(file)
        if known != json.loads(json.dumps(content)):
            key = first_difference(known, json.loads(json.dumps(content)))
            raise UserError(f"{out}: already holds another sweep ({key} differs); choose another --out")
        if not options.resume:
            raise UserError(f"{out}: already holds this sweep; add --resume to go on with it, or choose another --out")
        return
    if out.exists() and (not out.is_dir() or not is_empty(out)):
        raise UserError(f"{out}: is there and holds no sweep; choose an empty or new directory for --out")
    write_atomically(file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two commands at one sweep would train the same trials in the same directories."""
    with (out / "sweep.yaml").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out}: another command is at this sweep; wait for it, or stop it") from None
        yield


def _shares(options: SweepOptions) -> tuple[WorkerResources, Callable[[], int]]:
    """What a worker takes, and how many trials the cluster holds, asked anew whenever nodes may have come or gone."""
    if options.gpus > 1 and options.gpus != int(options.gpus):
        raise UserError(f"--gpus {options.gpus:g}: a worker takes a share of one GPU, or whole ones")
    cpus, gpus, nodes = _cluster()
    gpu = options.gpus if gpus else 0.0
    if gpus:
        per_worker = max(int(cpus * gpu / gpus), 1)
    else:
        per_worker = max(cpus // ((options.parallel or cpus) * options.workers), 1)

    def count() -> int:
        cpus, gpus, _ = _cluster()
        by_cpu = cpus // (options.workers * per_worker)
        return min(by_cpu, int(gpus / gpu + 1e-9) // options.workers) if gpu else by_cpu

    if nodes == 1 and count() == 0:  # nothing may join it
        has = f"{cpus} CPUs for trainings" + (f" and {gpus:g} GPUs" if gpus else "")
        raise UserError(f"--workers {options.workers}: this machine has {has}, too few for one trial; use fewer")
    return WorkerResources(per_worker, gpu), count


def _cluster() -> tuple[int, float, int]:
    """CPUs for trainings and GPUs of all nodes, and how many these are.

    One CPU stays free for validations, which trainings wait for. Of this machine, Ray may have been told of more CPUs
    than it has.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    known = sum(int(node.get("CPU", 0)) for node in nodes)
    cpus = known - 1 if len(nodes) > 1 else min(known - 1, os.cpu_count() or 1)
    return max(cpus, 1), sum(float(node.get("GPU", 0)) for node in nodes), len(nodes)


def encode_texts(job: TrialJob) -> None:
    """Encode every label that trials train or validate with, once; trials read the vectors from disk."""
    from ovseg_ray.training.validation import label_vocabulary
    from ovseg_ray.vocabulary import LabelEmbeddings

    config = trial_config(job.base, job.space, {})
    method = get_method(config.method)
    sources = open_sources(config.data, masks=method.segments)
    session = Session(config, method, job.path, tuple(sources.label_sets), text_cache=job.text_cache)
    model = session.model()
    if model.text_source is None or model.text_encoder is None:
        return
    embeddings = LabelEmbeddings(model.text_encoder)
    for source in config.data.sources:
        embeddings.embed(label_vocabulary(model, source, config.data))


def _fit(job: TrialJob, ledger: Ledger, options: SweepOptions, count: Callable[[], int]) -> None:
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C ends the sweep; --resume goes on with it
    quiet = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_PRINT_ALL_TRIAL_ERRORS": "0"}
    os.environ |= {"RAY_CHDIR_TO_TRIAL_DIR": "0", **quiet}
    from ray import tune as ray_tune

    from ovseg_ray.tuning.stopping import StudyAsha

    # it counts trials that were started again as failed; the study knows better
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    scratch = job.path / "ray"  # Ray Tune's own files, which nothing reads
    shutil.rmtree(scratch, ignore_errors=True)
    scheduler = StudyAsha(ledger) if isinstance(job.space.scheduler, Asha) else None
    with LiveTable(ledger, options.trials) as table:
        tuner = ray_tune.Tuner(
            ray_tune.with_resources(partial(run_trial, job=job), WATCHER),
            tune_config=ray_tune.TuneConfig(
                search_alg=_search(job, ledger, options, count),
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=scheduler is None,  # one that was stopped halfway may not be free for the next
            ),
            run_config=ray_tune.RunConfig(
                name=scratch.name,
                storage_path=str(job.path),
                verbose=0,
                callbacks=[table.callback()],
            ),
        )
        tuner.fit()
    shutil.rmtree(scratch, ignore_errors=True)


def _search(job: TrialJob, ledger: Ledger, options: SweepOptions, count: Callable[[], int]) -> StudySearch:
    from ovseg_ray.tuning.population import PopulationSearch

    def ended(number: int) -> None:
        shutil.rmtree(job.run(number).checkpoints, ignore_errors=True)

    rule, places = job.space.scheduler, Places(options.parallel, count)
    if not isinstance(rule, Pbt):
        return StudySearch(ledger, options.trials, places, job.run, ended)
    return PopulationSearch(
        ledger, options.trials, places, job.run, ended, rule=rule, epochs=job.base.training.epochs, seed=options.seed,
        configured=partial(trial_config, job.base, job.space),
    )  # fmt: skip


def summary(ledger: Ledger, out: Path) -> dict[str, Any]:
    """What the command prints."""
    outcomes = [outcome for trial in ledger.trials() if (outcome := ledger.outcome(trial)) is not None]
    states = [outcome.state for outcome in outcomes]
    best = sorted(out.glob("best*.yaml"))
    return {
        "trials": len(outcomes),
        "complete": states.count("complete"),
        "stopped": states.count("stopped"),
        "failed": states.count("failed"),
        "best": str(out / "best.yaml") if best else None,
        "study": str(out / "study.db"),
        "report": str(out / "report.html"),
    }
