"""Batch sizes that are learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from ovseg_ray.serving.batch_sizes import BatchSizes


def served(
    seconds: Callable[[int], float], most: int, batches: int, waiting: int = 100
) -> tuple[BatchSizes, list[int]]:
    """The sizes that were taken, while `seconds` is what one picture of a batch costs in milliseconds."""
    sizes, taken = BatchSizes(), []
    for _ in range(batches):
        size = min(sizes.best("a", most), waiting)
        taken.append(size)
        sizes.measured("a", size, size * seconds(size) / 1000)
    return sizes, taken


@pytest.mark.parametrize(
    ("cost", "most", "best"),
    [
        (lambda size: 1 + 4 / size, 16, 16),  # a GPU
        (lambda size: 1 + 4 / size, 13, 13),
        (lambda size: 1 + 0.1 * abs(size - 4), 16, 4),  # caches
        (lambda size: 1 + 0.1 * abs(size - 4), 3, 3),
        (lambda size: 1.0, 16, 1),  # nothing gained: nobody waits for others
        (lambda size: float(size), 1, 1),
        (lambda size: 300 + 900 / size, 16, 1),  # two of them would take a second and a half
        (lambda size: 10 + 200 / size, 16, 16),  # 0.4 s, and so did all that were tried before
        (lambda size: 100 + 200 / size, 16, 4),  # 0.6 s; eight would take a second
    ],
)
def test_the_cheapest_size_is_found_and_kept(cost: Callable[[int], float], most: int, best: int) -> None:
    _, taken = served(cost, most, 200)
    assert taken[0] == 1
    assert max(taken) <= most
    assert Counter(taken[12:])[best] >= 180


def test_it_follows_a_change() -> None:
    sizes, taken = served(lambda size: 1 + 0.1 * abs(size - 2), 16, 100)
    assert taken[60] == 2
    for _ in range(1000):
        size = sizes.best("a", 16)
        sizes.measured("a", size, size * (1 + 0.1 * abs(size - 8)) / 1000)
    assert sizes.best("a", 16) == 8


def test_one_slow_batch_says_nothing() -> None:
    sizes, _ = served(lambda size: 1 + 4 / size, 16, 20)
    sizes.measured("a", 16, 1e6)
    assert sizes.best("a", 16) == 16


def test_the_best_size_is_found_though_fewer_wait_than_may_go_together() -> None:
    _, taken = served(lambda size: 1 + 0.1 * abs(size - 4), 16, 200, waiting=15)
    assert Counter(taken[12:])[4] >= 180


def test_few_that_wait_are_taken_together_once_less_was_tried() -> None:
    sizes, taken = served(lambda size: 1 + 4 / size, 16, 50, waiting=3)
    assert Counter(taken) == {3: 46, 2: 2, 1: 2}
    assert sizes.best("a", 16) == 4
    assert sizes.best("b", 16) == 1, "another shape"
