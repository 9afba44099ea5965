"""Ends trials that fell behind, in Ray Tune's hands."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from ovseg_ray.tuning.ledger import Ledger


class StudyAsha(FIFOScheduler):
    """Ray Tune's ASHA, except that the study decides, so that a sweep that was killed needs nothing else to go on.

    Args:
        ledger: of the sweep.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self._open: set[int] = set()  # trials that a slower one before them may still end

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray Tune pickles its scheduler for a restore that nobody asks for

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Called by Ray Tune, for validations and in between: a verdict may have to wait for an earlier trial."""
        number = trial.config["number"]
        if result.get("final"):
            return str(TrialScheduler.CONTINUE)
        if result.get("value") is not None:
            self._ledger.report(number, result["epoch"], result["value"])
        elif number not in self._open:
            return str(TrialScheduler.CONTINUE)
        behind = self._ledger.falls_behind(number)
        (self._open.add if behind is None else self._open.discard)(number)
        return str(TrialScheduler.STOP if behind else TrialScheduler.CONTINUE)
