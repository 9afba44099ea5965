"""A bound on how much is held at a time, in whatever it is counted."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Capacity:
    """So much may be held at a time; who asks for more waits, first come first served.

    Args:
        total: all there is.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def take(self, amount: int) -> AsyncIterator[None]:
        """Hold `amount` within the block; more than there is at all is given when nothing else is held."""
        amount = min(amount, self.total)
        if self._waiting or self.held + amount > self.total:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((amount, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.held -= amount  # it was given in the same moment
                self._give()
                raise
        else:
            self.held += amount
        try:
            yield
        finally:
            self.held -= amount
            self._give()

    def _give(self) -> None:
        while self._waiting:
            amount, turn = self._waiting[0]
            if not turn.done() and self.held + amount > self.total:
                return
            self._waiting.popleft()
            if not turn.done():  # whoever waited may have gone
                self.held += amount
                turn.set_result(None)
