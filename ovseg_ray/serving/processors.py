"""Processors, and the passes through networks that share them.

With all processors a pass ends soonest; with one of its own it costs least, for no thread of it waits for another (at
the end of every parallel loop the fastest waits for the slowest, and the slowest shares its processor with whatever
decodes pictures and makes masks). So what comes alone gets all of them, and of several that wait each gets its part:
they run side by side, as the streams of OpenVINO's throughput hint do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """Some of the processors.

    Attributes:
        part: how many.
        among: how many shares there were to take when this one was: what waits is to be divided by them.
        thread: which of the threads works with them.
    """

    part: int
    among: int
    thread: int


@dataclass(frozen=True, eq=False)
class _Waiter:
    least: Callable[[], int]
    passes: Callable[[], int]
    granted: asyncio.Future[Share]


class Processors:
    """Hands out processors, first come, first served. Used from one event loop at a time.

    Args:
        count: of them. A GPU is one, and one pass at a time has it.
        threads: that PyTorch may use on all of them together; default: `count`.
    """

    def __init__(self, count: int, threads: int | None = None) -> None:
        self.count, self._threads, self._free = count, threads or count, count
        self._waiters: deque[_Waiter] = deque()
        # Each thread keeps the team of OpenMP threads that it once had, and as soon as there are more of those than
        # processors OpenMP puts them to sleep at every barrier. So a share takes the first thread that is idle: what
        # has all processors, and the largest team with it, always has the same one.
        self._executors = [ThreadPoolExecutor(1, f"model-{index}") for index in range(count)]
        self._idle = set(range(count))

    @property
    def alive(self) -> bool:
        """Whether the threads take work."""
        return not any(executor._shutdown for executor in self._executors)

    async def take(self, least: Callable[[], int] = lambda: 1, passes: Callable[[], int] = lambda: 1) -> Share:
        """Processors for one pass, which `run` or `give_back` has to follow.

        Both are asked anew whenever processors become free.

        Args:
            least: how many it must have.
            passes: how many the caller has to make, this one included; those that are free are shared among them, and
                among those of others that wait.
        """
        waiter = _Waiter(least, passes, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._grant()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                self._grant()  # those behind it may need less
            elif not waiter.granted.cancelled():
                self.give_back(waiter.granted.result())
            raise

    async def run(self, share: Share, function: Callable[[], T]) -> T:
        """What a function returns that computes with a share, which is given back when it ends.

        It does not end if the caller is cancelled, and its processors are not free before.
        """
        loop = asyncio.get_running_loop()
        threads = max(1, share.part * self._threads // self.count)

        def compute() -> T:
            compute_with(threads)
            return function()

        def ended(_: Future[T]) -> None:
            if loop.is_closed():
                self.give_back(share)
            else:
                loop.call_soon_threadsafe(self.give_back, share)

        future = self._executors[share.thread].submit(compute)
        future.add_done_callback(ended)
        return await asyncio.wrap_future(future)

    def give_back(self, share: Share) -> None:
        """A share that is not needed any more."""
        self._free += share.part
        self._idle.add(share.thread)
        self._grant()

    def _grant(self) -> None:
        while self._waiters and self._free:
            waiter = self._waiters[0]
            least = min(max(1, waiter.least()), self.count)
            if least > self._free:
                return  # those behind it wait as well, or it might wait for ever
            among = max(1, min(self._free // least, sum(other.passes() for other in self._waiters)))
            self._waiters.popleft()
            if waiter.granted.done():  # cancelled, and not awake yet
                continue
            share = Share(max(least, self._free // among), among, min(self._idle))
            self._free -= share.part
            self._idle.remove(share.thread)
            waiter.granted.set_result(share)


def compute_with(threads: int) -> None:
    """Let PyTorch's work in this thread be done by so many."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
        # A thread takes the number that any thread set last when it first asks for one, and keeps that: it has to ask
        torch.get_num_threads()
