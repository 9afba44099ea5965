"""Who gets how many processors, and when they are free again."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from ovseg_ray.serving.processors import Processors, Share


async def soon() -> None:
    """Until whatever can go on has gone on."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_who_comes_alone_gets_all_and_several_share() -> None:
    async def ask() -> None:
        processors = Processors(5)
        alone = await processors.take()
        assert (alone.part, alone.among) == (5, 1)
        waiting = [asyncio.create_task(processors.take()) for _ in range(2)]
        await soon()
        assert not any(task.done() for task in waiting)
        processors.give_back(alone)
        assert [(await task).part for task in waiting] == [2, 3]

    asyncio.run(ask())


def test_one_who_has_many_passes_to_make_leaves_room_for_them() -> None:
    async def ask() -> None:
        processors = Processors(4)
        shares = [await processors.take(passes=lambda: 7) for _ in range(4)]
        assert [(share.part, share.among) for share in shares] == [(1, 4), (1, 3), (1, 2), (1, 1)]
        assert {share.thread for share in shares} == {0, 1, 2, 3}
        for share in shares:
            processors.give_back(share)
        assert (await processors.take(passes=lambda: 2)) == Share(2, 2, 0)

    asyncio.run(ask())


def test_who_needs_many_waits_for_them_and_is_not_passed_by() -> None:
    async def ask() -> None:
        processors = Processors(4)
        first, second = [await processors.take(passes=lambda: 2) for _ in range(2)]
        large = asyncio.create_task(processors.take(least=lambda: 9))  # more than there are: all of them
        await soon()
        small = asyncio.create_task(processors.take())
        processors.give_back(first)
        await soon()
        assert not large.done()
        assert not small.done()
        processors.give_back(second)
        assert (await large).part == 4
        await soon()
        assert not small.done()
        processors.give_back(large.result())
        assert (await small).part == 4

    asyncio.run(ask())


def test_who_leaves_holds_nobody_up() -> None:
    async def ask() -> None:
        processors = Processors(2)
        held = await processors.take(passes=lambda: 2)
        large = asyncio.create_task(processors.take(least=lambda: 2))
        small = asyncio.create_task(processors.take())
        await soon()
        large.cancel()
        assert (await small).part == 1
        # and one that is cancelled in the moment it is its turn
        late = asyncio.create_task(processors.take())
        await soon()
        processors.give_back(held)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        processors.give_back(small.result())
        assert (await processors.take()).part == 2

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("count", "threads", "passes", "wanted"), [(4, None, 1, 4), (4, None, 2, 2), (4, None, 9, 1), (1, 6, 9, 6)]
)
def test_a_share_computes_with_as_many_threads(count: int, threads: int | None, passes: int, wanted: int) -> None:
    async def ask() -> int:
        processors = Processors(count, threads)
        return await processors.run(await processors.take(passes=lambda: passes), torch.get_num_threads)

    before = torch.get_num_threads()
    assert asyncio.run(ask()) == wanted
    assert torch.get_num_threads() == before


def test_a_share_is_busy_until_its_function_ends() -> None:
    begun, go = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go.wait(10)

    async def ask() -> None:
        processors = Processors(2)
        task = asyncio.create_task(processors.run(await processors.take(), work))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task  # at once: the caller does not wait
        other = asyncio.create_task(processors.take())
        await asyncio.sleep(0.05)
        assert not other.done()
        go.set()
        assert (await other).part == 2

        def fault() -> None:
            raise ValueError("a fault")

        with pytest.raises(ValueError, match="a fault"):
            await processors.run(other.result(), fault)
        assert (await processors.take()).part == 2

    asyncio.run(ask())
