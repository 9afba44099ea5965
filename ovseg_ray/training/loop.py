"""The training loop of one worker, for every method: plain PyTorch, Ray is not known here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ovseg_ray.errors import UserError
from ovseg_ray.methods.base import Batch, Method
from ovseg_ray.methods.precision import training_dtype
from ovseg_ray.training.batch_norm import average_statistics, share_statistics
from ovseg_ray.training.config import RunConfig
from ovseg_ray.training.ema import Ema
from ovseg_ray.training.input import Examples, batches, to_device
from ovseg_ray.training.optimizer import build_optimizer, set_lr
from ovseg_ray.training.plan import Plan
from ovseg_ray.training.schedule import lr_factor
from ovseg_ray.training.sources import Sources


@dataclass(frozen=True)
class Worker:
    """Which part of the training this process is.

    Attributes:
        rank: 0-based.
        world_size: processes; more than one have joined a `torch.distributed` group.
        device: where the network runs.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


class _Losses(nn.Module):
    """The loss computation as a module, which is what DDP and torch.compile want."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.method.losses(batch)


class Loop:
    """All state of a training, and one step of it.

    Args:
        method: initialised and prepared.
        config: of the run.
        sources: data.
        worker: this process.

    Attributes:
        step: optimiser steps done.
        seconds: of training so far, over all starts of the run.
    """

    def __init__(self, method: Method, config: RunConfig, sources: Sources, worker: Worker) -> None:
        training = config.training
        self.method, self.config, self.worker, self._sources = method, config, worker, sources
        self.plan = Plan.of(training, len(sources), worker.world_size)
        self.step, self.seconds = 0, 0.0
        method.to(worker.device)
        if training.channels_last:
            # torch's annotations of `Module.to` leave this documented call out
            method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        share_statistics(method, training.batch_norm_images, self.plan.shares, worker.rank)
        self.optimizer = build_optimizer(method.parameter_groups(), training.optimizer)
        self.ema = Ema(method, training.ema_decay) if training.ema_decay else None
        self._dtype = training_dtype(training.precision, worker.device)
        self.scaler = torch.amp.GradScaler(worker.device.type, enabled=self._dtype == torch.float16)
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._losses = self._wrap(_Losses(method))
        self._unchecked: tuple[int, Tensor] | None = None

    def _wrap(self, losses: nn.Module) -> nn.Module:
        if self.config.training.compile:
            losses.compile()
        if self.worker.world_size == 1:
            return losses
        # Running statistics need no broadcast: training never reads them, and they are averaged before each
        # checkpoint. Frozen text towers stay off the network, too.
        on_gpu = self.worker.device.type == "cuda"
        ids = [self.worker.device.index or 0] if on_gpu else None
        return DistributedDataParallel(losses, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)

    def run(
        self,
        log: Callable[[dict[str, Any]], None],
        checkpoint: Callable[[bool], None],
        leaving: Callable[[], bool] = lambda: False,
        until: float | None = None,
    ) -> None:
        """Train from the present step to the end, or to an earlier epoch.

        Args:
            log: takes the metrics of a logged step; called on every rank with the same global values.
            checkpoint: called on every rank where a checkpoint is due; the argument says whether to validate it.
            leaving: whether a node is about to go, so that a checkpoint is due now; asked on every rank at once,
                after each logged step.
            until: epoch to stop at, with a checkpoint; the schedule is that of the whole training all the same.

        Raises:
            UserError: an unreadable sample, or a loss that is not finite.
        """
        training, plan = self.config.training, self.plan
        validated = plan.marks(training.validate_every) if training.validate_every else frozenset()
        last = plan.step_at(until)
        validated = validated | {last} if validated else validated
        saved = plan.marks(training.checkpoint_every) | validated | {last}
        if self.step >= last:
            return
        cls = type(self.method)
        examples = Examples(self._sources, cls, self.method.config, training.seed, cache=self.config.data.cache_images)
        self.method.train()
        since, since_step = time.monotonic(), self.step
        stream = batches(
            examples, cls, plan, self.config.data, rank=self.worker.rank, first_step=self.step,
            pin=self.worker.device.type == "cuda",
        )  # fmt: skip
        for group in stream:
            due = False
            wanted = (self.step + 1) % training.log_every == 0 or self.step + 1 in (1, plan.total_steps)
            metrics = self.train_step(group, measure=wanted)
            now = time.monotonic()
            if wanted:
                speed = (self.step - since_step) * training.batch_size / max(now - since, 1e-9)
                self.seconds += now - since
                log({**metrics, "images_per_second": speed, "seconds": self.seconds})
                since, since_step = now, self.step
                due = leaving()
            if due or self.step in saved:
                self.check_finite()
                self._average_statistics()
                self.seconds += time.monotonic() - since
                checkpoint(self.step in validated)
                since, since_step = time.monotonic(), self.step
            if self.step == last:
                return

    def train_step(self, group: Sequence[Batch], *, measure: bool = True) -> dict[str, Any]:
        """One optimiser step on this worker's micro-batches.

        Returns:
            With `measure`, the global metrics of the step, the same on every rank; else nothing.
        """
        training = self.config.training
        torch.manual_seed(hash((training.seed, self.step, self.worker.rank)) % 2**63)  # dropout: resumable anywhere
        factor = lr_factor(training.schedule, self.step, self.plan.total_steps, self.plan.steps_per_epoch)
        set_lr(self.optimizer, factor)
        local = [to_device(batch, self.worker.device, channels_last=training.channels_last) for batch in group]
        terms = self._backward(local)
        loss = torch.stack(list(terms.values())).sum()
        self.check_finite()
        self._unchecked = (self.step, torch.isfinite(loss))
        self.scaler.unscale_(self.optimizer)
        norm = None
        if training.clip_norm:
            norm = nn.utils.clip_grad_norm_(self._parameters, training.clip_norm)
        elif measure:
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            norm = nn.utils.get_total_norm(gradients)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step()
        self.step += 1
        if self.ema:
            self.ema.update()
        return self._metrics(terms, norm, training.optimizer.lr * factor) if measure else {}

    def _average_statistics(self) -> None:
        if self.worker.world_size == 1:
            return
        average_statistics(dict(self.method.named_buffers()), self.method)
        if self.ema:
            average_statistics(self.ema.average, self.method)

    def _backward(self, group: Sequence[Batch]) -> dict[str, Tensor]:
        """Gradients of the global mean loss.

        Returns:
            This worker's share of each global term: their sum over workers is the term.
        """
        pending, equal = self._shares(group), self.plan.shares[self.worker.rank] / self.plan.batch_size
        shares: list[dict[str, Tensor]] = []
        total: dict[str, Tensor] = {}
        for micro, batch in enumerate(group):
            last = micro == len(group) - 1
            ddp = self._losses if isinstance(self._losses, DistributedDataParallel) else None
            with nullcontext() if ddp is None or last else ddp.no_sync():
                with torch.autocast(self.worker.device.type, self._dtype, enabled=self._dtype != torch.float32):
                    terms = self._losses(batch)
                shares = shares or pending()
                scaled = {name: term.float() * shares[micro].get(name, equal) for name, term in terms.items()}
                # DDP divides by the number of workers, the shares have done so already
                loss = torch.stack(list(scaled.values())).sum() * self.worker.world_size
                self.scaler.scale(loss).backward()
            for name, term in scaled.items():
                total[name] = total.get(name, 0.0) + term.detach()
        return total

    def _shares(self, group: Sequence[Batch]) -> Callable[[], list[dict[str, Tensor]]]:
        """For each micro-batch, its share of the global batch in the terms that do not weigh all images alike.

        Workers sum their weights while the network runs: the result is waited for when the returned function is called.
        """
        weights = [self.method.loss_weights(batch) for batch in group]
        names = sorted(weights[0])
        if not names:
            return lambda: [{} for _ in group]
        local = torch.stack([torch.stack([w[name].float() for name in names]) for w in weights])
        whole = local.sum(0)
        work = dist.all_reduce(whole, async_op=True) if self.worker.world_size > 1 else None

        def shares() -> list[dict[str, Tensor]]:
            if work is not None:
                work.wait()
            # where nothing is labelled anywhere the term is 0 as well
            share = local / whole.clamp_min(torch.finfo(torch.float32).tiny)
            return [dict(zip(names, row, strict=True)) for row in share]

        return shares

    def _metrics(self, terms: dict[str, Tensor], norm: Tensor | None, lr: float) -> dict[str, Any]:
        values = torch.stack(list(terms.values()))
        if self.worker.world_size > 1:
            dist.all_reduce(values)
        named = {f"loss/{name}": value for name, value in zip(terms, values.tolist(), strict=True)}
        return {
            "step": self.step,
            "epoch": self.step / self.plan.steps_per_epoch,
            "loss": math.fsum(named.values()),
            **named,
            "lr": lr,
            "grad_norm": float(norm) if norm is not None else 0.0,
        }

    def check_finite(self) -> None:
        """See that the loss of the step before was a number; asked a step later so that a GPU need not wait.

        Raises:
            UserError: it was not.
        """
        if self._unchecked is None or bool(self._unchecked[1]):
            return
        step = self._unchecked[0]
        micros = [self.plan.micro_batch(step, m, self.worker.rank) for m in range(self.plan.accumulate)]
        images = ", ".join(self._sources.image_id(int(i)) for micro in micros for i in micro[:8])
        raise UserError(
            f"step {step + 1}: the loss is not finite on images {images}; lower training.optimizer.lr, set "
            "training.clip_norm, or look at these images"
        )
