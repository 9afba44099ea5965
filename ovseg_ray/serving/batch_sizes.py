"""How many pictures go through a network together: as many as make each of them cheapest, learned while serving.

A GPU wants large batches. A processor has its best size where activations still fit into its caches; a batch of four
times that can cost each picture half as much again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field

SHAPES = 256  # remembered
TRIES = 2  # before a size is judged: the first run of a size also allocates
KEPT = 3  # measurements of a size; the fastest counts, for others only ever slow it down
NEAR, FAR = 1.03, 1.05
LOOK_AROUND = 64  # batches, after which a neighbouring size is tried again


@dataclass
class _Shape:
    seconds: dict[int, deque[float]] = field(default_factory=dict)
    batches: int = 0


class BatchSizes:
    """The best batch size of each shape of pictures, whichever threads ask and tell."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shapes: OrderedDict[Hashable, _Shape] = OrderedDict()

    def measured(self, key: Hashable, size: int, seconds: float) -> None:
        """A batch of `size` pictures took `seconds`."""
        with self._lock:
            self._measured(key, size, seconds)

    def _measured(self, key: Hashable, size: int, seconds: float) -> None:
        shape = self._shapes.setdefault(key, _Shape())
        self._shapes.move_to_end(key)
        while len(self._shapes) > SHAPES:
            self._shapes.popitem(last=False)
        shape.seconds.setdefault(_power(size), deque(maxlen=KEPT)).append(seconds / size)
        shape.batches += 1

    def best(self, key: Hashable, most: int) -> int:
        """How many pictures to take together, at most `most`; `most` itself while nothing is known."""
        with self._lock:
            return self._best(key, most)

    def _best(self, key: Hashable, most: int) -> int:
        shape = self._shapes.get(key)
        if shape is None or most < 2:
            return most
        known = {size: min(times) for size, times in shape.seconds.items() if len(times) >= TRIES and size <= most}
        if not known:
            return most
        # downwards from the largest that came, as long as smaller ones do as well; a queue may never grow to `most`
        size = largest = max(known)
        fastest = float("inf")
        while size in known and known[size] <= FAR * (fastest := min(fastest, known[size])) and size > 1:
            size //= 2
        if size not in known:
            return size
        fastest = min(known.values())
        chosen = min(other for other, seconds in known.items() if seconds <= NEAR * fastest)
        if shape.batches % LOOK_AROUND == LOOK_AROUND - 1:
            larger = shape.batches // LOOK_AROUND % 2
            return min(2 * chosen, most) if larger else max(chosen // 2, 1)
        return most if chosen == largest else chosen


def _power(size: int) -> int:
    """The largest power of two that is no larger."""
    return 1 << (size.bit_length() - 1)
