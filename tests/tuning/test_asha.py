"""Successive halving on curves: by hand, and the same in every order of results."""

from __future__ import annotations

import pytest

from ovseg_ray.tuning.asha import falls_behind
from ovseg_ray.tuning.space import Asha, Objective

RULE = Asha(name="asha", grace=1, reduction=3)
MAX, MIN = Objective(metric="miou"), Objective(metric="loss", mode="min")


def curve(*values: float) -> list[tuple[float, float]]:
    return [(float(epoch + 1), value) for epoch, value in enumerate(values)]


OTHERS = [curve(0.1), curve(0.2), curve(0.3, 0.4, 0.5), curve(0.4, 0.5, 0.7)]


@pytest.mark.parametrize(
    ("own", "behind"),
    [
        ([], False),
        (curve(0.1), True),
        (curve(0.29), True),
        (curve(0.31), False),  # the upper third begins at 0.3
        (curve(0.9, 0.1), False),  # no rung at epoch 2
        (curve(0.9, 0.1, 0.6), True),  # the next rung at 3: the upper third of 0.5 and 0.7 begins at 0.633
        (curve(0.9, 0.1, 0.65), False),
        (curve(0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.0), False),  # it has ended anyway
    ],
)
def test_who_goes_on(own: list[tuple[float, float]], behind: bool) -> None:
    assert falls_behind(own, OTHERS, RULE, MAX, epochs=9) is behind


def test_losses_go_the_other_way() -> None:
    assert not falls_behind(curve(0.1), OTHERS, RULE, MIN, epochs=9)
    assert falls_behind(curve(0.35), OTHERS, RULE, MIN, epochs=9)


def test_the_first_are_compared_with_nobody() -> None:
    assert not falls_behind(curve(0.0), [], RULE, MAX, epochs=9)


def test_a_trial_shorter_than_the_first_rung_runs_to_its_end() -> None:
    assert not falls_behind(curve(0.0), OTHERS, Asha(name="asha", grace=4, reduction=3), MAX, epochs=2)
