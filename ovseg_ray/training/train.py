"""Training of any method: the driver's side."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ovseg_ray.cluster import WorkerResources, worker_resources
from ovseg_ray.config import SourceConfig, build
from ovseg_ray.data import check_split, list_splits, open_dataset
from ovseg_ray.errors import UserError
from ovseg_ray.methods.base import Method
from ovseg_ray.methods.export import save_model
from ovseg_ray.methods.registry import get_method
from ovseg_ray.run_directory import RunDirectory, write_atomically
from ovseg_ray.training.batch_norm import groups_of
from ovseg_ray.training.checkpoint import load_weights, newest_checkpoint, remove_partial
from ovseg_ray.training.config import RunConfig
from ovseg_ray.training.metrics import read_metrics
from ovseg_ray.training.plan import Plan
from ovseg_ray.training.provenance import provenance_of
from ovseg_ray.training.session import Session
from ovseg_ray.training.sources import open_sources
from ovseg_ray.training.watch import watch

SNAPSHOT = "checkpoint_manager_snapshot.json"
RESIZE_INTERVAL_S = 15.0  # between looks for room for more workers; each resize costs a start of all of them
COLLECTIVE_TIMEOUT_S = 300  # a dead peer must not look like a hang of half an hour


def check(config: RunConfig, out: Path, *, resume: bool = False) -> None:
    """Say what `train` would say of the run directory and of data sets, without Ray, which takes its time to start.

    Args:
        config: resolved.
        out: run directory.
        resume: whether the run that is there is to go on; if there is none, that is told on stderr.

    Raises:
        UserError: it holds something else, another run, or this one and `resume` was not asked for; or no such data.
    """
    run = RunDirectory.check(out, with_absolute_paths(config).model_dump(mode="json"), resume=resume)
    if resume and not run.config_file.is_file():
        _say(f"{out}: there is no run to resume; a new one begins")
    for source in config.data.sources:
        check_split(source.path, source.split)


def train(
    config: RunConfig,
    out: Path,
    *,
    workers: int | tuple[int, int] = 1,
    resume: bool = False,
    worker: WorkerResources | None = None,
    text_cache: Path | None = None,
    until: float | None = None,
) -> RunDirectory:
    """Train a method on Ray Train and export the last model (the averaged weights where `ema_decay` is set).

    Ray must be connected (`ovseg_ray.cluster.connect`). Whatever is wrong with the configuration or the data sets
    is found here, before any worker starts.

    Args:
        config: resolved.
        out: run directory, on storage that every worker sees.
        workers: training processes; (least, most) starts with as many as the cluster has room for, and takes more
            in or does with fewer as nodes come and go. The result is the same.
        resume: go on with the run that is there, to the same end; one that has finished is returned at once.
        worker: what each of them takes of the cluster; default: an equal part of all of it.
        text_cache: directory of `CachedTextEncoder`: vectors of prompts that other trainings encoded already.
        until: epoch to stop at, with a checkpoint and no model; the same call with a later one goes on from there.

    Raises:
        UserError: anything the user can mend, also when a worker met it.
        RuntimeError: a fault in a worker.
    """
    method = get_method(config.method)
    method.check_training(config.training)
    model = build(method.config_class, config.model, "model")
    config, out = with_absolute_paths(config), Path(out).absolute()
    values = config.model_dump(mode="json")
    if RunDirectory(out).finished:
        return RunDirectory.create(out, values, resume=resume)
    method.transform(model)  # what it reads beside the data sets must be there
    sources = open_sources(config.data, masks=method.segments)
    least, most = (workers, workers) if isinstance(workers, int) else workers
    plan = _check_plans(config, len(sources), range(least, most + 1))
    validation = validation_sources(config, method) if config.training.validate_every else ()
    worker = worker or worker_resources(most, least)
    run = RunDirectory.create(out, values, resume=resume)
    remove_partial(run.path)
    provenance = provenance_of(config, sources, most)
    labels = tuple(sources.label_sets)
    session = Session(
        config, method, run.path, labels, validation, worker.cpus, provenance, newest_known(run), text_cache,
        until,
    )  # fmt: skip
    count = f"{least} to {most} workers" if least < most else f"{most} worker{'s' if most > 1 else ''}"
    _say(f"train {config.method}: {len(sources)} images, {plan.total_steps} steps, {count}")
    last = plan.step_at(until)
    with watch(run.metrics_file, f"train {config.method}", last):
        checkpoint = _fit(session, (least, most), worker.gpus)
    if last == plan.total_steps:
        _export(session, checkpoint)
    return run


def _check_plans(config: RunConfig, samples: int, workers: range) -> Plan:
    """The plan, once every number of workers has been seen to fit it."""
    for count in workers:
        plan = Plan.of(config.training, samples, count)
        if config.training.batch_norm_images is not None:
            groups_of(config.training.batch_norm_images, plan.shares)
    return plan


def _fit(session: Session, workers: tuple[int, int], gpus: float) -> Path:
    import ray.train
    from ray.train.torch import TorchConfig

    from ovseg_ray.training.interrupts import Trainer, own_interrupts
    from ovseg_ray.training.validation import Validation
    from ovseg_ray.training.worker import AbortOnUserError, train_worker

    training = session.config.training
    trainer = Trainer(
        train_worker,
        train_loop_config={"session": session},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers[0] if workers[0] == workers[1] else workers,
            use_gpu=gpus > 0,
            elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
            resources_per_worker={"CPU": session.threads, **({"GPU": gpus} if gpus else {})},
        ),
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        run_config=ray.train.RunConfig(
            name=session.run.checkpoints.name,
            storage_path=str(session.path),
            failure_config=ray.train.FailureConfig(max_failures=training.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=training.keep_last),
            callbacks=[AbortOnUserError()],
        ),
        # "DEFAULT": as a trial of Ray Tune, the task would else be held to the sliver of a CPU that watches the trial
        validation_config=ray.train.ValidationConfig(
            fn=Validation(session), ray_remote_kwargs={"scheduling_strategy": "DEFAULT"}
        ),
    )
    try:
        with own_interrupts():
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise explain_failure(error) from error
    except SystemExit as error:  # how Ray Train ends on Ctrl-C
        raise KeyboardInterrupt from error
    except ray.exceptions.RayActorError as error:
        if "creation task" in str(error):  # the controller never came up
            raise explain_failure(error) from error
        raise UserError(
            f"{session.path}: training was interrupted; continue it with the same command and --resume"
        ) from error
    assert result.checkpoint is not None  # every training ends with one
    return Path(result.checkpoint.path)


def explain_failure(error: BaseException) -> Exception:
    """What the user is told of a failed training: the user's own mistake, or the last line of the cause."""
    cause = getattr(error, "controller_failure", None)
    failures = list((getattr(error, "worker_failures", None) or {}).values())
    for candidate in [cause, *failures]:
        if isinstance(candidate, UserError):
            return UserError(str(candidate))
    shown: BaseException = cause or (failures[0] if failures else error)
    lines = [line for line in str(shown).splitlines() if line.strip()]
    reason = f"{type(shown).__name__}: {lines[-1].strip()}" if lines else type(shown).__name__
    return RuntimeError(f"training failed ({reason}); Ray's session directory has the log under logs/train")


def _export(session: Session, checkpoint: Path) -> None:
    method = session.model()
    load_weights(method, checkpoint)
    logged = [record for record in read_metrics(session.run.metrics_file)[0] if "loss" in record]
    provenance = {**session.provenance, "step": logged[-1]["step"], "seconds": round(logged[-1]["seconds"], 3)}
    write_atomically(session.run.provenance_file, json.dumps(provenance, indent=1) + "\n")
    save_model(method, session.run.model, vocabularies=session.label_sets, provenance=provenance)


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same configuration for processes with another working directory."""

    def absolute(source: SourceConfig) -> SourceConfig:
        vocabulary = source.vocabulary
        if vocabulary is not None and Path(vocabulary).exists():  # else the name of a shipped set
            vocabulary = str(Path(vocabulary).absolute())
        return source.model_copy(update={"path": str(Path(source.path).absolute()), "vocabulary": vocabulary})

    sources = [absolute(source) for source in config.data.sources]
    return config.model_copy(update={"data": config.data.model_copy(update={"sources": sources})})


def validation_sources(config: RunConfig, method: type[Method]) -> tuple[SourceConfig, ...]:
    """The data sets that have the validation split, or all where it is cut from training; others are told on stderr.

    Raises:
        UserError: a validation split that cannot be read, or has no masks where the method needs them.
    """
    if config.data.validation_share:
        return tuple(config.data.sources)
    split = config.data.validation_split
    if config.data.episodes is not None:
        _say("validation: none during training by episodes; 'ovseg-ray evaluate RUN --episodes …' scores them")
        return ()
    found = []
    for source in config.data.sources:
        if split not in list_splits(source.path):
            _say(f"validation: {source.path} has no split '{split}'; none on it during training")
            continue
        dataset = open_dataset(source.path, split)
        if method.segments:
            dataset.require_masks()
        if len(dataset):
            found.append(source)
    return tuple(found)


def newest_known(run: RunDirectory) -> Path | None:
    """The newest checkpoint where Ray Train's own record of them is missing or was cut off, else None.

    Ray Train rewrites its record in place; the checkpoints themselves appear whole or not at all.
    """
    snapshot = run.checkpoints / SNAPSHOT
    if not snapshot.is_file():
        return newest_checkpoint(run.checkpoints)
    try:
        json.loads(snapshot.read_text())
    except ValueError:
        snapshot.unlink()
        return newest_checkpoint(run.checkpoints)
    return None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
