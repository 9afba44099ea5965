"""Which samples each worker sees at each step: a pure function of the seed, whatever the number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from ovseg_ray.config import TrainingConfig
from ovseg_ray.errors import UserError


@dataclass(frozen=True)
class Plan:
    """The order of samples over a whole training.

    Every epoch is one permutation of all samples, cut into global batches of `batch_size`. The rest that does not
    fill a batch is left out of that epoch (another rest each time): all steps then weigh the same, and no sample
    comes twice in an epoch. Workers and micro-batches cut a global batch further and never change what is in it.

    Attributes:
        samples: N, over all sources.
        batch_size: samples of an optimiser step, over all workers and micro-batches.
        epochs: passes over the data; a fraction ends within an epoch.
        seed: of the permutations.
        accumulate: micro-batches of a step.
        workers: ranks. Their shares differ by one unit at most where the batch does not divide.
        unit: images that stay together on one worker (they share batch statistics), where there are enough units.
    """

    samples: int
    batch_size: int
    epochs: float
    seed: int = 0
    accumulate: int = 1
    workers: int = 1
    unit: int = 1

    def __post_init__(self) -> None:
        least = self.accumulate * self.workers
        if self.samples == 0:
            raise UserError("data: nothing to train on; the data set is empty")
        if self.batch_size % self.accumulate:
            legal = max(round(self.batch_size / self.accumulate), self.workers) * self.accumulate
            raise UserError(
                f"training.batch_size = {self.batch_size}: does not divide by {self.accumulate} micro-batches; the "
                f"nearest that does is {legal}"
            )
        if self.batch_size < least:
            raise UserError(
                f"training.batch_size = {self.batch_size}: less than an image for each of {self.workers} workers × "
                f"{self.accumulate} micro-batches; use at least {least}"
            )
        if self.batch_size > self.samples:
            legal = self.samples // self.accumulate * self.accumulate
            hint = f"use at most {legal}" if legal >= least else f"use fewer than {self.workers} workers"
            raise UserError(f"training.batch_size = {self.batch_size}: the data has {self.samples} images; {hint}")

    @classmethod
    def of(cls, training: TrainingConfig, samples: int, workers: int) -> Plan:
        """The plan of a configuration.

        Raises:
            UserError: the batch size does not divide, or exceeds the data.
        """
        unit = training.batch_norm_images or 1
        epochs = training.epochs
        if training.steps is not None:
            epochs = training.steps / max(samples // training.batch_size, 1)
        return cls(samples, training.batch_size, epochs, training.seed, training.accumulate, workers, unit)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one whole epoch."""
        return self.samples // self.batch_size

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the training, at least one."""
        return max(round(self.epochs * self.steps_per_epoch), 1)

    @property
    def shares(self) -> tuple[int, ...]:
        """Samples that each worker takes through the network at once: of every micro-batch, in the order of ranks."""
        ends = [self._start(rank) for rank in range(self.workers + 1)]
        return tuple(end - start for start, end in pairwise(ends))

    def _start(self, rank: int) -> int:
        whole = self.batch_size // self.accumulate
        unit = self.unit if whole % self.unit == 0 and whole // self.unit >= self.workers else 1
        return whole // unit * rank // self.workers * unit

    def epoch_of(self, step: int) -> int:
        """Epoch that step `step` (0-based) lies in."""
        return step // self.steps_per_epoch

    def global_batch(self, step: int) -> np.ndarray:
        """(batch_size,) int64 sample indices of a step (0-based)."""
        start = step % self.steps_per_epoch * self.batch_size
        return permutation(self.samples, self.seed, self.epoch_of(step))[start : start + self.batch_size]

    def micro_batch(self, step: int, micro: int, rank: int) -> np.ndarray:
        """int64 sample indices of one worker's micro-batch, as many as its share."""
        first = micro * (self.batch_size // self.accumulate)
        return self.global_batch(step)[first + self._start(rank) : first + self._start(rank + 1)]

    def schedule(self, rank: int, first_step: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """(epoch, sample indices) of every micro-batch of a worker, from a step to the end."""
        for step in range(first_step, self.total_steps):
            for micro in range(self.accumulate):
                yield self.epoch_of(step), self.micro_batch(step, micro, rank)

    def step_at(self, epoch: float | None) -> int:
        """Steps done when an epoch is; None: when the training is."""
        if epoch is None:
            return self.total_steps
        return min(max(round(epoch * self.steps_per_epoch), 1), self.total_steps)

    def marks(self, every: float) -> frozenset[int]:
        """Steps (1-based, counted when done) at which something due every `every` epochs happens, and the last."""
        interval = max(round(every * self.steps_per_epoch), 1)
        return frozenset(range(interval, self.total_steps + 1, interval)) | {self.total_steps}


@lru_cache(maxsize=2)
def permutation(samples: int, seed: int, epoch: int) -> np.ndarray:
    """(samples,) int64 order of an epoch, read-only."""
    order = np.random.default_rng((seed, epoch)).permutation(samples)
    order.flags.writeable = False
    return order


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """What a sample's augmentation draws from: never depends on the worker, the rank or the batch."""
    return np.random.default_rng((seed, epoch, index))
