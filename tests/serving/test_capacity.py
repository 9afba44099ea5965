"""A bound on what is held, under every order of coming and going."""

from __future__ import annotations

import asyncio
import random

from ovseg_ray.serving.capacity import Capacity


def test_no_more_is_held_than_there_is_and_everybody_has_a_turn() -> None:
    async def ask() -> None:
        capacity, most, done = Capacity(10), 0, 0

        async def one(amount: int) -> None:
            nonlocal most, done
            async with capacity.take(amount):
                most = max(most, capacity.held)
                await asyncio.sleep(0.001)
            done += 1

        draw = random.Random(0)
        tasks = [asyncio.create_task(one(draw.randint(1, 20))) for _ in range(60)]
        await asyncio.sleep(0.005)
        gone = draw.sample(tasks, 20)
        for task in gone:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert capacity.held == 0
        assert most <= 10
        assert done >= 40

    asyncio.run(ask())


def test_a_large_one_is_not_starved() -> None:
    async def ask() -> None:
        capacity, order = Capacity(10), []

        async def one(name: str, amount: int) -> None:
            async with capacity.take(amount):
                order.append(name)
                await asyncio.sleep(0.01)

        await asyncio.gather(one("a", 6), one("large", 10), *(one("small", 1) for _ in range(5)))
        assert order[:2] == ["a", "large"]

    asyncio.run(ask())
