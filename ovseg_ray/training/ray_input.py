"""Batches of the plan decoded by Ray Data, on whichever nodes have room: the same ones as the loader's."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pyarrow as pa
import ray
import ray.data
from safetensors.torch import load, save

from ovseg_ray.errors import UserError
from ovseg_ray.methods.base import Batch, Method
from ovseg_ray.training.input import Collate, Examples
from ovseg_ray.training.plan import Plan

BLOCK = 4  # micro-batches of a task: a block costs about 20 ms of bookkeeping
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
    schedule = list(plan.schedule(rank, first_step))
    blocks = [
        pa.table(
            {
                "epoch": pa.array([epoch for epoch, _ in schedule[start : start + BLOCK]], pa.int64()),
                "indices": pa.array([indices for _, indices in schedule[start : start + BLOCK]], pa.list_(pa.int64())),
            }
        )
        for start in range(0, len(schedule), BLOCK)
    ]
    dataset = ray.data.from_arrow(blocks)
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    decoded = dataset.map_batches(
        functools.partial(_decode, ray.put(examples), method),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.TaskPoolStrategy(size=tasks),
        num_cpus=0,
    )
    for table in decoded.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=BLOCK):
        for row in table.to_pylist():
            yield UserError(row["error"]) if row["error"] else load(row["batch"])


def _decode(reference: ray.ObjectRef, method: type[Method], block: pa.Table) -> pa.Table:
    examples: Examples = ray.get(reference)
    collate = Collate(method)
    rows = []
    for row in block.to_pylist():
        batch = collate([examples[row["epoch"], index] for index in row["indices"]])
        failed = isinstance(batch, UserError)
        rows.append({"batch": b"" if failed else save(batch), "error": str(batch) if failed else ""})
    return pa.Table.from_pylist(rows, _SCHEMA)
