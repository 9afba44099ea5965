"""Batches of the plan decoded by Ray Data, on whichever nodes have room: the same ones as the loader's."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import ray
import ray.data
from safetensors.torch import load, save

from ovseg_ray.errors import UserError
from ovseg_ray.methods.base import Batch, Method
from ovseg_ray.training.input import Collate, Examples
from ovseg_ray.training.plan import Plan

BLOCK = 4  # micro-batches of a task: a block costs about 20 ms of bookkeeping
STRETCH = 2048  # micro-batches of one Ray Data execution: its blocks exist from its start
_INDICES = pa.list_(pa.int64())
_SCHEMA = pa.schema({"batch": pa.large_binary(), "error": pa.string()})


def ray_batches(
    examples: Examples, method: type[Method], plan: Plan, *, rank: int, first_step: int, tasks: int
) -> Iterator[Batch | UserError]:
    """Micro-batches of one rank, from a step to the end of the training, in the order of the plan.

    Args:
        examples: travels to the tasks, once for each node.
        method: collates.
        plan: what comes in which order.
        rank: of this worker.
        first_step: 0-based.
        tasks: decoding at the same time for this worker. They reserve no CPU, as loader processes do not either:
            training workers hold them all where there is one machine.
    """
    shared = ray.put(examples)
    schedule = plan.schedule(rank, first_step)
    while stretch := list(itertools.islice(schedule, STRETCH)):
        decoded = _blocks(stretch).map_batches(
            functools.partial(_decode, shared, method),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.TaskPoolStrategy(size=tasks),
            num_cpus=0,
        )
        for table in decoded.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=BLOCK):
            for row in table.to_pylist():
                yield UserError(row["error"]) if row["error"] else load(row["batch"])


def _blocks(stretch: list[tuple[int, np.ndarray]]) -> ray.data.Dataset:
    """Epoch and sample indices of micro-batches, `BLOCK` of them a block, in order."""
    tables = []
    for start in range(0, len(stretch), BLOCK):
        epochs, indices = zip(*stretch[start : start + BLOCK], strict=True)
        tables.append(pa.table({"epoch": pa.array(epochs, pa.int64()), "indices": pa.array(indices, _INDICES)}))
    dataset = ray.data.from_arrow(tables)
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    return dataset


def _decode(reference: ray.ObjectRef, method: type[Method], block: pa.Table) -> pa.Table:
    examples: Examples = ray.get(reference)
    collate = Collate(method)
    rows = []
    for row in block.to_pylist():
        batch = collate([examples[row["epoch"], index] for index in row["indices"]])
        failed = isinstance(batch, UserError)
        rows.append({"batch": b"" if failed else save(batch), "error": str(batch) if failed else ""})
    return pa.Table.from_pylist(rows, _SCHEMA)
