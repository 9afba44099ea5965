"""The batcher alone: who goes together, in which order, and what becomes of those who leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from ovseg_ray.serving.batching import Batcher
from ovseg_ray.serving.processors import Processors


class Machine:
    """Doubles numbers; holds until `go` is set; remembers batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.begun = threading.Event()

    def __call__(self, items: Sequence[int], processors: int) -> list[int | BaseException]:
        assert processors == 1
        self.batches.append(list(items))
        self.begun.set()
        assert self.go.wait(10)
        if -1 in items:
            raise RuntimeError("a fault")
        return [ValueError("no zero") if item == 0 else 2 * item for item in items]


def batcher(machine: Machine, limit: int = 3) -> Batcher[int, int]:
    return Batcher(machine, Processors(1), lambda key, processors: limit)


def run(machine: Machine, items: Sequence[tuple[int, str]], limit: int = 3) -> list[int | BaseException]:
    """The first item goes alone; all others wait until it is done."""

    async def ask() -> list[int | BaseException]:
        queue = batcher(machine, limit)
        tasks = []
        for item, key in items:
            tasks.append(asyncio.create_task(queue.submit(item, key)))
            await asyncio.sleep(0)
            if len(tasks) == 1:
                await asyncio.to_thread(machine.begun.wait, 10)
        machine.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(ask())


def test_what_waits_goes_together_by_kind_up_to_the_limit() -> None:
    machine = Machine()
    found = run(machine, [(1, "a"), (2, "b"), (3, "a"), (4, "b"), (5, "b"), (6, "b"), (7, "a")])
    assert found == [2, 4, 6, 8, 10, 12, 14]
    assert machine.batches == [[1], [2, 4, 5], [3, 7], [6]]


def test_one_failure_is_its_own() -> None:
    machine = Machine()
    found = run(machine, [(1, "a"), (2, "a"), (0, "a")])
    assert found[:2] == [2, 4]
    assert isinstance(found[2], ValueError)


def test_a_fault_reaches_its_batch_and_no_other() -> None:
    machine = Machine()
    found = run(machine, [(1, "a"), (-1, "a"), (2, "a"), (3, "b")])
    assert found[0] == 2
    assert all(isinstance(error, RuntimeError) for error in found[1:3])
    assert found[3] == 6


def test_who_leaves_is_not_computed() -> None:
    machine = Machine()

    async def ask() -> None:
        queue = batcher(machine)
        first = asyncio.create_task(queue.submit(1, "a"))
        await asyncio.to_thread(machine.begun.wait, 10)
        second = asyncio.create_task(queue.submit(2, "a"))
        third = asyncio.create_task(queue.submit(3, "a"))
        await asyncio.sleep(0)
        assert queue.waiting == 2
        second.cancel()
        await asyncio.sleep(0)
        assert queue.waiting == 1
        machine.go.set()
        assert (await first, await third) == (2, 6)
        with pytest.raises(asyncio.CancelledError):
            await second

    asyncio.run(ask())
    assert machine.batches == [[1], [3]]


def test_it_serves_one_event_loop_after_another() -> None:
    machine = Machine()
    machine.go.set()
    queue = batcher(machine)
    for item in (1, 2):
        assert asyncio.run(queue.submit(item, "a")) == 2 * item


def test_what_a_caller_that_left_was_computed_with_is_free_again() -> None:
    machine = Machine()

    async def ask() -> None:
        queue = batcher(machine)
        first = asyncio.create_task(queue.submit(1, "a"))
        await asyncio.to_thread(machine.begun.wait, 10)
        second = asyncio.create_task(queue.submit(2, "a"))
        await asyncio.sleep(0)
        first.cancel()
        second.cancel()
        await asyncio.sleep(0)
        machine.go.set()
        assert await queue.submit(3, "a") == 6

    asyncio.run(ask())
    assert machine.batches == [[1], [3]]
