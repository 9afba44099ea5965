"""Successive halving on curves: by hand, and the same in every order of results."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from ovseg_ray.config import build
from ovseg_ray.tuning.asha import Halving
from ovseg_ray.tuning.ledger import Ledger, Outcome, open_study
from ovseg_ray.tuning.space import Asha, Objective, SweepSpace

RULE = Asha(name="asha", grace=1, reduction=3)
MAX, MIN = Objective(metric="miou"), Objective(metric="loss", mode="min")
HALVING = Halving(RULE, MAX, 9)


def curve(*values: float) -> list[tuple[float, float]]:
    return [(float(epoch + 1), value) for epoch, value in enumerate(values)]


OTHERS = [curve(0.1), curve(0.2), curve(0.3, 0.4, 0.5), curve(0.4, 0.5, 0.7)]


@pytest.mark.parametrize(
    ("own", "end"),
    [
        ([], None),
        (curve(0.1), 1),
        (curve(0.29), 1),
        (curve(0.31), None),  # the upper third begins at 0.3
        (curve(0.9, 0.1), None),  # no rung at epoch 2
        (curve(0.9, 0.1, 0.6), 3),  # the next rung: the upper third of 0.5 and 0.7 begins at 0.633
        (curve(0.9, 0.1, 0.65), None),
        (curve(0.1, 0.9, 0.9), 1),  # what came later does not help
        (curve(0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.0), None),  # it has ended anyway
    ],
)
def test_who_goes_on(own: list[tuple[float, float]], end: float | None) -> None:
    assert HALVING.ends([*OTHERS, own]) == [None, None, None, None, end]


def test_losses_go_the_other_way() -> None:
    losses = Halving(RULE, MIN, 9)
    falling = [curve(0.4), curve(0.3), curve(0.2), curve(0.1)]
    assert losses.ends([*falling, curve(0.05)]) == [None] * 5
    assert losses.ends([*falling, curve(0.35)])[-1] == 1


def test_the_first_is_compared_with_nobody() -> None:
    assert HALVING.ends([curve(0.0, 0.0, 0.0)]) == [None]


def test_a_trial_shorter_than_the_first_rung_runs_to_its_end() -> None:
    whole = Halving(Asha(name="asha", grace=4, reduction=3), MAX, 2)
    assert whole.ends([*OTHERS, curve(0.0)]) == [None] * 5


def test_what_a_trial_did_after_it_fell_behind_counts_for_nobody() -> None:
    behind = curve(0.1, 0.9, 0.99)  # went on until the verdict was certain
    assert HALVING.ends([*OTHERS, behind, curve(0.9, 0.9, 0.71)])[-1] is None


def test_a_verdict_waits_for_earlier_trials_that_are_slower() -> None:
    curves: list[Any] = [curve(0.5), [], curve(0.1)]
    assert HALVING.verdict(2, curves, [False, False, False]) is None
    assert HALVING.verdict(2, curves, [False, True, False]) is True, "1 makes no validation any more"
    assert HALVING.verdict(2, [curve(0.5), curve(0.05), curve(0.1)], [False] * 3) is True
    assert HALVING.verdict(2, [curve(0.5), curve(0.05), curve(0.1, 0.9)], [False] * 3) is True, "at a rung before"
    equal = [curve(0.5), curve(0.9), curve(0.8)]  # the upper third begins at 0.767
    assert HALVING.verdict(2, equal, [False] * 3) is False
    assert HALVING.verdict(2, [*equal[:2], curve(0.8, 0.8)], [False] * 3) is None


def run(path: Path, order: int, trials: int = 14, parallel: int = 3) -> list[Any]:
    """A sweep whose trials validate in an order drawn from `order`: what Optuna was told."""
    space = build(
        SweepSpace,
        {
            "objectives": [{"metric": "miou"}],
            "scheduler": {"name": "asha", "grace": 1, "reduction": 3},
            "space": {"lr": {"type": "float", "low": 1e-3, "high": 1.0, "log": True}},
        },
    )
    ledger = Ledger(open_study(path, "lseg", space), space, 0, {"lr": 0.5}, Halving(RULE, MAX, 4))
    ledger.lag = 2 * parallel
    rng, running, epochs = random.Random(order), {}, 0
    while len(ledger.trials()) < trials or running:
        asked = ledger.ask() if len(running) < parallel and len(ledger.trials()) < trials else None
        if asked is not None:
            running[asked[0]] = (asked[1]["lr"], 0)
            continue
        number = rng.choice(list(running))
        lr, epoch = running[number]
        epoch, epochs = epoch + 1, epochs + 1
        value = epoch / (1 + abs(lr - 0.1))
        ledger.report(number, float(epoch), value)
        running[number] = (lr, epoch)
        if ledger.falls_behind(number):
            ledger.finish(number, Outcome("stopped", epochs=epoch))
            del running[number]
        elif epoch == 4:
            ledger.finish(number, Outcome("complete", (value,), epochs=epoch))
            del running[number]
    ledger.close()
    assert epochs < 4 * trials
    return [(t.state.name, t.params, t.value, t.intermediate_values) for t in ledger.study.trials]


def test_the_same_trials_are_stopped_in_whichever_order_they_validate(tmp_path: Path) -> None:
    told = [run(tmp_path / f"{order}.db", order) for order in range(4)]
    assert {state for state, *_ in told[0]} == {"COMPLETE", "PRUNED"}
    assert all(other == told[0] for other in told[1:])
