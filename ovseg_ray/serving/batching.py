"""Dynamic batching: whatever of one kind is waiting when processors become free goes through the model together.

Nothing waits for company: an idle model starts at once, a busy one gathers a batch meanwhile. Throughput under load is
that of full batches, latency without load that of a single picture.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ovseg_ray.serving.processors import Processors, Share

Item = TypeVar("Item")
Result = TypeVar("Result")
Run = Callable[[Sequence[Item], int], Sequence[Result | BaseException]]
SMOOTHING = 0.2
FIRST_GUESS_S = 1.0


@dataclass(eq=False)
class _Entry(Generic[Item, Result]):
    item: Item
    key: Hashable
    future: asyncio.Future[Result]


class Batcher(Generic[Item, Result]):
    """Runs items in batches, the longest waiting first; several side by side where processors are free.

    Used from one event loop at a time.

    Args:
        run: from a batch, and the processors that it has, to the results of its items, in order, an exception in place
            of those that failed; called in a thread.
        processors: that it computes with.
        limit: the largest batch of a key on so many processors.
        least: how many processors an item of a key must have.
    """

    def __init__(
        self,
        run: Run[Item, Result],
        processors: Processors,
        limit: Callable[[Hashable, int], int],
        least: Callable[[Hashable], int] = lambda key: 1,
    ) -> None:
        self._run, self._processors, self._limit, self._least = run, processors, limit, least
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._next: asyncio.Task[None] | None = None  # waits for processors
        self._running: set[asyncio.Task[None]] = set()
        self._seconds = FIRST_GUESS_S
        self.on_batch: Callable[[int, float], None] = lambda size, seconds: None

    @property
    def waiting(self) -> int:
        """Items that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Batches that are computed."""
        return len(self._running)

    @property
    def seconds_per_item(self) -> float:
        """What an item took of late: its share of a batch, and of the processors."""
        return self._seconds

    async def submit(self, item: Item, key: Hashable) -> Result:
        """The result of an item. If the caller is cancelled, an item that still waits is taken out of the queue.

        Args:
            item: for `run`.
            key: only items of the same key go together.
        """
        entry: _Entry[Item, Result] = _Entry(item, key, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        self._start()
        try:
            return await entry.future
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def _start(self) -> None:
        """Wait for processors, if anything waits for them and nobody does on its behalf."""
        if self._waiting and (self._next is None or self._next.done()):
            self._next = asyncio.create_task(self._pass())

    async def _pass(self) -> None:
        share = await self._processors.take(self._least_now, lambda: len(self._waiting))
        batch = self._take(share)
        task, self._next = self._next, None
        self._start()
        if not batch:  # whoever waited has left
            self._processors.give_back(share)
            return
        assert task is not None
        self._running.add(task)  # the event loop itself holds no task
        task.add_done_callback(self._running.discard)
        await self._compute(batch, share)

    async def _compute(self, batch: Sequence[_Entry[Item, Result]], share: Share) -> None:
        loop = asyncio.get_running_loop()
        items, started = [entry.item for entry in batch], loop.time()
        results: Sequence[Result | BaseException]
        try:
            results = await self._processors.run(share, lambda: self._run(items, share.part))
        except Exception as error:
            results = [error] * len(batch)
        seconds = loop.time() - started
        per_item = seconds / len(batch) * share.part / self._processors.count
        self._seconds += SMOOTHING * (per_item - self._seconds)
        self.on_batch(len(batch), seconds)
        for entry, result in zip(batch, results, strict=True):
            if entry.future.done():  # its caller has gone
                continue
            if isinstance(result, BaseException):
                entry.future.set_exception(result)
            else:
                entry.future.set_result(result)

    def _least_now(self) -> int:
        return self._least(self._waiting[0].key) if self._waiting else 1

    def _take(self, share: Share) -> list[_Entry[Item, Result]]:
        """The longest waiting item, and those of its key behind it; some are left for the other shares."""
        if not self._waiting:
            return []
        key = self._waiting[0].key
        alike = sum(entry.key == key for entry in self._waiting)
        limit = max(1, min(self._limit(key, share.part), math.ceil(alike / share.among)))
        batch: list[_Entry[Item, Result]] = []
        others: list[_Entry[Item, Result]] = []
        while self._waiting and len(batch) < limit:
            entry = self._waiting.popleft()
            (batch if entry.key == key else others).append(entry)
        self._waiting.extendleft(reversed(others))
        return batch
