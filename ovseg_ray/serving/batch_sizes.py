"""How many pictures go through a network together: as many as make each of them cheapest, learned while serving.

A GPU wants large batches. A processor has its best size where activations still fit into its caches; a batch of four
times that can cost each picture half as much again. Learned upwards, from single pictures: a batch that is too large
costs everybody in it the time of all of it.
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
LONGEST_S = 1.0  # what a batch saves is milliseconds for each picture: one of seconds is not worth waiting for


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
            shape = self._shapes.setdefault(key, _Shape())
            self._shapes.move_to_end(key)
            while len(self._shapes) > SHAPES:
                self._shapes.popitem(last=False)
            shape.seconds.setdefault(_power(size), deque(maxlen=KEPT)).append(seconds / size)
            shape.batches += 1

    def best(self, key: Hashable, most: int) -> int:
        """How many pictures to take together, at most `most`; one while nothing is known."""
        with self._lock:
            shape = self._shapes.get(key)
            return 1 if shape is None else _best(shape, most)


def _best(shape: _Shape, most: int) -> int:
    known = {size: min(times) for size, times in shape.seconds.items() if len(times) >= TRIES and size <= most}
    # upwards, as long as larger ones do as well and do not take too long; a queue may never grow to `most`
    size, fastest = 1, float("inf")
    while size in known and known[size] <= FAR * (fastest := min(fastest, known[size])):
        if 2 * size > most or not _short(2 * size, known[size]):
            break
        size *= 2
    if size not in known:
        return size
    fastest = min(known.values())
    chosen = min(other for other, seconds in known.items() if seconds <= NEAR * fastest)
    if shape.batches % LOOK_AROUND == LOOK_AROUND - 1:
        if shape.batches // LOOK_AROUND % 2:
            return min(2 * chosen, most) if _short(2 * chosen, known[chosen]) else chosen
        return max(chosen // 2, 1)
    # times of sizes in between are kept with the power of two below
    return most if chosen == _power(most) and _short(most, known[chosen]) else chosen


def _short(size: int, seconds_each: float) -> bool:
    return size * seconds_each <= LONGEST_S


def _power(size: int) -> int:
    """The largest power of two that is no larger."""
    return 1 << (size.bit_length() - 1)
