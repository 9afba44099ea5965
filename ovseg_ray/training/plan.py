"""Which samples each worker sees at each step: a pure function of the seed, whatever the number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

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
        workers: ranks.
    """

    samples: int
    batch_size: int
    epochs: float
    seed: int = 0
    accumulate: int = 1
    workers: int = 1

    def __post_init__(self) -> None:
        unit = self.accumulate * self.workers
        if self.samples == 0:
            raise UserError("data: nothing to train on; the data set is empty")
        if self.batch_size % unit:
            legal = max(round(self.batch_size / unit), 1) * unit
            raise UserError(
                f"training.batch_size = {self.batch_size}: does not divide by {self.workers} workers × "
                f"{self.accumulate} micro-batches; the nearest that does is {legal}"
            )
        if self.batch_size > self.samples:
            legal = self.samples // unit * unit
            hint = f"use at most {legal}" if legal else f"use fewer than {self.workers} workers"
            raise UserError(f"training.batch_size = {self.batch_size}: the data has {self.samples} images; {hint}")

    @classmethod
    def of(cls, training: TrainingConfig, samples: int, workers: int) -> Plan:
        """The plan of a configuration.

        Raises:
            UserError: the batch size does not divide, or exceeds the data.
        """
        return cls(samples, training.batch_size, training.epochs, training.seed, training.accumulate, workers)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one whole epoch."""
        return self.samples // self.batch_size

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the training, at least one."""
        return max(round(self.epochs * self.steps_per_epoch), 1)

    @property
    def micro_batch_size(self) -> int:
        """Samples that one worker takes through the network at once."""
        return self.batch_size // (self.accumulate * self.workers)

    def epoch_of(self, step: int) -> int:
        """Epoch that step `step` (0-based) lies in."""
        return step // self.steps_per_epoch

    def global_batch(self, step: int) -> np.ndarray:
        """(batch_size,) int64 sample indices of a step (0-based)."""
        start = step % self.steps_per_epoch * self.batch_size
        return permutation(self.samples, self.seed, self.epoch_of(step))[start : start + self.batch_size]

    def micro_batch(self, step: int, micro: int, rank: int) -> np.ndarray:
        """(micro_batch_size,) int64 sample indices of one worker's micro-batch."""
        start = (micro * self.workers + rank) * self.micro_batch_size
        return self.global_batch(step)[start : start + self.micro_batch_size]

    def schedule(self, rank: int, first_step: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """(epoch, sample indices) of every micro-batch of a worker, from a step to the end."""
        for step in range(first_step, self.total_steps):
            for micro in range(self.accumulate):
                yield self.epoch_of(step), self.micro_batch(step, micro, rank)

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
