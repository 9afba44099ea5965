"""Values that are kept for a while within a bound of bytes."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass
class _Entry(Generic[V]):
    value: V
    bytes: int
    used: float


class ExpiringStore(Generic[V]):
    """Forgets what was not used for `ttl_s` seconds, and the least recently used where `max_bytes` are full.

    Not safe to share between threads.

    `max_bytes` and `ttl_s` may be set anew; both then hold for what is kept already.

    Args:
        max_bytes: of all values together.
        ttl_s: seconds after its last use that a value is forgotten.
        clock: seconds; for tests.
        renews: whether a use starts the time anew. A copy of what is kept elsewhere must be looked up there again.
    """

    def __init__(
        self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic, renews: bool = True
    ) -> None:
        self.max_bytes, self.ttl_s, self._clock, self._renews = max_bytes, ttl_s, clock, renews
        self.bytes = 0
        self._entries: OrderedDict[str, _Entry[V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: str, value: V, size: int) -> bool:
        """Keep a value of `size` bytes; False if it is larger than all there is room for."""
        self.delete(key)
        if size > self.max_bytes:
            return False
        self._entries[key] = _Entry(value, size, self._clock())
        self.bytes += size
        self.tidy()
        return True

    def get(self, key: str) -> V | None:
        """A value, if it is still there; its time starts anew where uses renew."""
        self.tidy()
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._renews:
            entry.used = self._clock()
            self._entries.move_to_end(key)
        return entry.value

    def delete(self, key: str) -> bool:
        """Forget a value; whether there was one."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self.bytes -= entry.bytes
        return True

    def tidy(self) -> None:
        """Forget what has expired. Every use does so; this is for times when nobody asks."""
        oldest = self._clock() - self.ttl_s
        # what gives a value its time moves it to the end, so the first expire first
        while self._entries and (self.bytes > self.max_bytes or next(iter(self._entries.values())).used <= oldest):
            self.delete(next(iter(self._entries)))
