"""Asynchronous successive halving by Ray Tune's rule, on the curves of the study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from ovseg_ray.tuning.ledger import Ledger
from ovseg_ray.tuning.space import Asha, Objective

Curve = Sequence[tuple[float, float]]


@dataclass
class _Named:
    """All that the rule wants of a trial."""

    trial_id: str


def falls_behind(curve: Curve, others: Sequence[Curve], rule: Asha, objective: Objective, epochs: float) -> bool:
    """Whether a trial ends at its newest validation.

    Args:
        curve: (epoch, value) of the trial, ascending.
        others: of trials that it is compared with, in order.
        rule: rungs and how many go on.
        objective: what the values are.
        epochs: of a whole trial; the last validation ends nothing.
    """
    if not curve or curve[-1][0] >= epochs or rule.grace >= epochs:
        return False
    scheduler = ASHAScheduler(
        time_attr="epoch", metric="value", mode=objective.mode, max_t=epochs, grace_period=rule.grace,
        reduction_factor=rule.reduction, stop_last_trials=False,
    )  # fmt: skip
    action = TrialScheduler.CONTINUE
    for name, points in enumerate([*others, curve]):
        trial: Any = _Named(str(name))
        scheduler.on_trial_add(None, trial)
        for epoch, value in points:
            action = scheduler.on_trial_result(None, trial, {"epoch": epoch, "value": value})
    return bool(action == TrialScheduler.STOP)


class StudyAsha(FIFOScheduler):
    """Ray Tune's ASHA, except that a trial is compared with those whose results were final when it was asked for.

    So what is stopped does not depend on which of two validations came first, and a sweep that was killed needs
    nothing but its study to go on.

    Args:
        ledger: of the sweep.
        rule: rungs and how many go on.
        epochs: of a whole trial.
    """

    def __init__(self, ledger: Ledger, rule: Asha, epochs: float) -> None:
        super().__init__()
        self._ledger, self._rule, self._epochs = ledger, rule, epochs

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray Tune pickles its scheduler for a restore that nobody asks for

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Called by Ray Tune."""
        number, value, objective = trial.config["number"], result.get("value"), self._ledger.space.curve
        if value is None or result.get("final") or objective is None:
            return str(TrialScheduler.CONTINUE)
        self._ledger.report(number, result["epoch"], value)
        others = [self._ledger.curve(other) for other in range(self._ledger.visible(number))]
        curve = [point for point in self._ledger.curve(number) if point[0] <= result["epoch"]]
        behind = falls_behind(curve, others, self._rule, objective, self._epochs)
        return str(TrialScheduler.STOP if behind else TrialScheduler.CONTINUE)
