"""Dynamic batching: whatever of one kind is waiting when the model becomes free goes through it together.

Nothing waits for company: an idle model starts at once, a busy one gathers a batch meanwhile. Throughput under load is
that of full batches, latency without load that of a single picture.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Run = Callable[[Sequence[Item]], Sequence[Result | BaseException]]
SMOOTHING = 0.2


@dataclass(eq=False)
class _Entry(Generic[Item, Result]):
    item: Item
    key: Hashable
    future: asyncio.Future[Result]


class Batcher(Generic[Item, Result]):
    """Runs items in batches, one batch at a time, the longest waiting first.

    Used from one event loop at a time.

    Args:
        run: from a batch to the results of its items, in order, an exception in place of those that failed; called in
            `executor`.
        executor: of one thread.
        limit: the largest batch of a key.
    """

    def __init__(
        self, run: Run[Item, Result], executor: Executor, limit: Callable[[Hashable], int], first_guess_s: float = 1.0
    ) -> None:
        self._run, self._executor, self._limit = run, executor, limit
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._seconds = first_guess_s
        self.on_batch: Callable[[int, float], None] = lambda size, seconds: None

    @property
    def waiting(self) -> int:
        """Items that wait."""
        return len(self._waiting)

    @property
    def seconds_per_item(self) -> float:
        """What an item took of late, its share of a batch."""
        return self._seconds

    async def submit(self, item: Item, key: Hashable) -> Result:
        """The result of an item. If the caller is cancelled, an item that still waits is taken out of the queue.

        Args:
            item: for `run`.
            key: only items of the same key go together.
        """
        entry: _Entry[Item, Result] = _Entry(item, key, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        try:
            return await entry.future
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._take()
            started = loop.time()
            results: Sequence[Result | BaseException]
            try:
                results = await loop.run_in_executor(self._executor, self._run, [entry.item for entry in batch])
            except Exception as error:
                results = [error] * len(batch)
            seconds = loop.time() - started
            self._seconds += SMOOTHING * (seconds / len(batch) - self._seconds)
            self.on_batch(len(batch), seconds)
            for entry, result in zip(batch, results, strict=True):
                if entry.future.done():  # its caller has gone
                    continue
                if isinstance(result, BaseException):
                    entry.future.set_exception(result)
                else:
                    entry.future.set_result(result)

    def _take(self) -> list[_Entry[Item, Result]]:
        """The longest waiting item, and those of its key behind it."""
        key = self._waiting[0].key
        limit = max(1, self._limit(key))
        batch: list[_Entry[Item, Result]] = []
        others: list[_Entry[Item, Result]] = []
        while self._waiting and len(batch) < limit:
            entry = self._waiting.popleft()
            (batch if entry.key == key else others).append(entry)
        self._waiting.extendleft(reversed(others))
        return batch
