"""What runs in a Ray Train worker: the loop, with Ray's checkpoints, reports and failures around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import get_device

from ovseg_ray.errors import UserError
from ovseg_ray.training.checkpoint import checkpoint_name, load_checkpoint, remove_partial, save_checkpoint
from ovseg_ray.training.events import Events
from ovseg_ray.training.loop import Loop, Worker
from ovseg_ray.training.metrics import append_metrics, truncate_metrics
from ovseg_ray.training.session import Session


class AbortOnUserError(ray.train.UserCallback):
    """Ends the run at once on a mistake of the user's: another attempt would meet it again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by the controller, by keyword."""
        for error in worker_exceptions.values():
            if isinstance(error, UserError):
                raise error


def train_worker(settings: dict[str, Session]) -> None:
    """Train from the last checkpoint, or from the beginning."""
    session = settings["session"]
    context = ray.train.get_context()
    rank = context.get_world_rank()
    torch.set_num_threads(session.threads)
    try:
        _train(session, Worker(rank, context.get_world_size(), get_device()))
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of memory on the GPU of worker {rank}; lower training.batch_size, or raise training.accumulate"
        ) from error


def _train(session: Session, worker: Worker) -> None:
    sources = session.sources()
    method = session.model()
    known = ray.train.get_checkpoint()
    restart = Path(known.path) if known else session.restart
    if restart is None:
        method.initialise()
    loop = Loop(method, session.config, sources, worker)
    if restart is not None:
        load_checkpoint(loop, restart)
    reporter = _Reporter(session, loop)
    if known is None and loop.step >= loop.plan.step_at(session.until):
        # killed after its last checkpoint and before Ray Train heard of it, which must have one to end with
        reporter.checkpoint(validate=True)
    loop.run(reporter.log, reporter.checkpoint, reporter.leaving, session.until)


class _Reporter:
    def __init__(self, session: Session, loop: Loop) -> None:
        self._session, self._loop = session, loop
        self._first = loop.worker.rank == 0
        self._latest: dict[str, Any] = {}
        self._left = False
        if self._first:
            remove_partial(session.run.checkpoints)
            truncate_metrics(session.run.metrics_file, loop.step)
            self._events = Events(session.run.path / "tensorboard", loop.step)

    def log(self, metrics: dict[str, Any]) -> None:
        self._latest = metrics
        if self._first:
            append_metrics(self._session.run.metrics_file, metrics)
            self._events.add(metrics)

    def leaving(self) -> bool:
        """Whether a node is being drained, once: the next start goes on from the checkpoint written now."""
        if self._left or ray.train.get_preemption_info() is None:
            return False
        self._left = True
        return True

    def checkpoint(self, validate: bool) -> None:
        loop = self._loop
        directory = self._session.run.checkpoints / checkpoint_name(loop.step)
        place = {"step": loop.step, "epoch": loop.step / loop.plan.steps_per_epoch}
        if not self._first:
            ray.train.report(place)  # a barrier, which every rank must enter
            return
        save_checkpoint(loop, directory)
        ray.train.report(
            {**self._latest, **place},
            checkpoint=ray.train.Checkpoint.from_directory(directory),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,  # it was written where it stays
            validation=ray.train.ValidationTaskConfig(fn_kwargs=place)
            if validate and self._session.validation
            else False,
        )
