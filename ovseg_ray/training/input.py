"""From the plan to batches: decoding and augmentation, in loader processes or here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ovseg_ray.config import Config, DataConfig
from ovseg_ray.data.sample import DecodedSample
from ovseg_ray.errors import UserError
from ovseg_ray.methods.base import Batch, Method
from ovseg_ray.training.plan import Plan, sample_generator
from ovseg_ray.training.sources import Sources

Key = tuple[int, int]  # epoch, sample index


class Examples(Dataset[Any]):
    """Examples by (epoch, sample index): decode, remap labels, transform.

    With `cache`, decoded samples stay in memory, once for every loader process.
    """

    def __init__(self, sources: Sources, method: type[Method], config: Config, seed: int, *, cache: bool) -> None:
        self._sources, self._seed = sources, seed
        self._transform = method.transform(config, training=True)
        self._cache: dict[int, DecodedSample] | None = {} if cache else None

    def __getitem__(self, key: Key) -> dict[str, Any] | UserError:
        epoch, index = key
        number, row = self._sources.locate(index)
        try:
            sample = self._decoded(index, number, row)
            return self._transform(sample, number, sample_generator(self._seed, epoch, index))
        except UserError as error:
            # torch would wrap an exception of a loader process in its traceback; as a value it stays one line
            return error

    def _decoded(self, index: int, number: int, row: int) -> DecodedSample:
        if self._cache is None:
            return self._sources.sources[number].sample(row)
        if index not in self._cache:
            self._cache[index] = self._sources.sources[number].sample(row)
        return self._cache[index]


class _Keys(Sampler[list[Key]]):
    """The plan of one rank as keys of `Examples`."""

    def __init__(self, plan: Plan, rank: int, first_step: int) -> None:
        self._plan, self._rank, self._first = plan, rank, first_step

    def __iter__(self) -> Iterator[list[Key]]:
        for epoch, indices in self._plan.schedule(self._rank, self._first):
            yield [(epoch, int(index)) for index in indices]

    def __len__(self) -> int:
        return (self._plan.total_steps - self._first) * self._plan.accumulate


class Collate:
    """Examples as a batch, or the first mistake among them."""

    def __init__(self, method: type[Method]) -> None:
        self._method = method

    def __call__(self, examples: list[dict[str, Any] | UserError]) -> Batch | UserError:
        for example in examples:
            if isinstance(example, UserError):
                return example
        return self._method.collate([example for example in examples if isinstance(example, dict)])


def batches(
    examples: Examples, method: type[Method], plan: Plan, data: DataConfig, *, rank: int, first_step: int, pin: bool
) -> Iterator[list[Batch]]:
    """The micro-batches of each step of one rank, from a step to the end of the training.

    Raises:
        UserError: a sample that cannot be read.
    """
    stream: Iterator[Batch | UserError]
    if data.input == "ray_data":
        from ovseg_ray.training.ray_input import ray_batches

        tasks = max(1, data.loader_workers)
        stream = ray_batches(examples, method, plan, rank=rank, first_step=first_step, tasks=tasks)
    else:
        stream = iter(
            DataLoader(
                examples,
                batch_sampler=_Keys(plan, rank, first_step),
                collate_fn=Collate(method),
                num_workers=data.loader_workers,
                pin_memory=pin,
                prefetch_factor=4 if data.loader_workers else None,
            )
        )
    group: list[Batch] = []
    for batch in stream:
        if isinstance(batch, UserError):
            raise batch
        group.append(batch)
        if len(group) == plan.accumulate:
            yield group
            group = []


def to_device(batch: Batch, device: torch.device, *, channels_last: bool) -> Batch:
    """A batch on the device; images in NHWC where asked."""
    moved = {}
    for key, value in batch.items():
        image = channels_last and value.ndim == 4 and value.is_floating_point()
        layout = torch.channels_last if image else torch.preserve_format
        moved[key] = value.to(device, non_blocking=True, memory_format=layout)
    return moved
