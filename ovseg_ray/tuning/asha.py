"""Asynchronous successive halving by Ray Tune's rule: who ends where, from the curves of trials alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ovseg_ray.tuning.space import Asha, Objective

Curve = Sequence[tuple[float, float]]  # (epoch, value) of validations, ascending


@dataclass
class _Named:
    """All that the rule wants of a trial."""

    trial_id: str


@dataclass(frozen=True)
class Halving:
    """At a rung a trial is compared with those of lower number that came so far, and ends there if it falls behind.

    In which order validations really came makes no difference, so the same sweep stops the same trials.

    Attributes:
        rule: rungs and how many go on.
        objective: what the values are.
        epochs: of a whole trial; a validation there ends nothing.
    """

    rule: Asha
    objective: Objective
    epochs: float

    def ends(self, curves: Sequence[Curve]) -> list[float | None]:
        """The epoch where each trial falls behind; None if it does not.

        Args:
            curves: by number. Validations that a trial still made after it had fallen behind count for nobody.
        """
        from ray.tune.schedulers import ASHAScheduler, TrialScheduler

        if self.rule.grace >= self.epochs:
            return [None] * len(curves)
        scheduler = ASHAScheduler(
            time_attr="epoch", metric="value", mode=self.objective.mode, max_t=self.epochs,
            grace_period=self.rule.grace, reduction_factor=self.rule.reduction, stop_last_trials=False,
        )  # fmt: skip
        found: list[float | None] = []
        for number, curve in enumerate(curves):
            trial: Any = _Named(str(number))
            scheduler.on_trial_add(None, trial)
            found.append(None)
            for epoch, value in curve:
                if epoch >= self.epochs:
                    break
                action = scheduler.on_trial_result(None, trial, {"epoch": epoch, "value": value})
                if action == TrialScheduler.STOP:
                    found[-1] = epoch
                    break
        return found

    def verdict(self, number: int, curves: Sequence[Curve], ended: Sequence[bool]) -> bool | None:
        """Whether a running trial ends, from what is certain by now; None: not yet, and trials before it may end it.

        Args:
            number: of the trial.
            curves: by number.
            ended: by number: whether a trial makes no more validations.
        """
        # a trial that started earlier may be slower: its values decide, too
        reached = [curve[-1][0] if curve else 0.0 for curve in curves[: number + 1]]
        certain = min((epoch for epoch, over in zip(reached, ended, strict=False) if not over), default=reached[-1])
        known = [[point for point in curve if point[0] <= certain] for curve in curves[: number + 1]]
        if self.ends(known)[number] is not None:
            return True
        return None if certain < reached[-1] else False
