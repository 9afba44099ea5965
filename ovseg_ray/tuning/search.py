"""The study as Ray Tune's search algorithm.

Ray Tune's own `OptunaSearch` keeps what it needs to go on in a pickle beside the study, counts trials that a scheduler
stopped as complete, and forgets why one failed; here the study alone says all of that.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.search import Searcher

from ovseg_ray.run_directory import RunDirectory
from ovseg_ray.training.metrics import read_metrics
from ovseg_ray.tuning.ledger import Ledger, Outcome
from ovseg_ray.tuning.space import Value

DIED = "its process died; Ray's session directory has the log"
# Seconds before a trial whose process died is started again. Ray goes on placing processes on a node that is gone until
# it knows; Ray Tune itself starts a trial again at once, and its tries are used up by then.
AGAIN_S = (1.0, 10.0, 30.0)
LAG = 2  # times the trials that run at once: fewer would leave places empty behind a slow trial


class StudySearch(Searcher):
    """Hands out trials: first those that an earlier start left unfinished, then new ones.

    Args:
        ledger: of the sweep.
        trials: how many there are to be in all.
        places: how many may run at this moment.
        run: run directory of a trial, by number.
        ended: called with each number that came to something.
    """

    def __init__(
        self,
        ledger: Ledger,
        trials: int,
        places: Places,
        run: Callable[[int], RunDirectory],
        ended: Callable[[int], None],
    ) -> None:
        super().__init__()
        self._ledger, self._trials, self._places, self._run, self._ended = ledger, trials, places, run, ended
        self._waiting = ledger.unfinished()
        self._running: dict[str, int] = {}
        self._deaths: Counter[int] = Counter()
        self._later: dict[int, float] = {}
        self._hopeless = False  # a trial failed of what all others would, too

    def suggest(self, trial_id: str) -> Any:
        """Called by Ray Tune: a configuration, "not now" (None), or the end."""
        if len(self._running) >= self._places():
            return None
        if self._hopeless:
            return None if self._running else Searcher.FINISHED
        if self._ready():
            number = self._waiting.pop(0)
            return self._start(trial_id, number, self._ledger.values(number))
        if len(self._ledger.trials()) >= self._trials:
            # a trial that runs may die and be started again; Ray Tune never asks again after the end
            return None if self._later or self._running else Searcher.FINISHED
        self._ledger.lag = LAG * self._places.wanted
        asked = self._ledger.ask()
        return None if asked is None else self._start(trial_id, *asked)

    def _ready(self) -> list[int]:
        """Trials to start again, or left by an earlier start of the sweep."""
        due = [number for number, when in self._later.items() if time.monotonic() >= when]
        for number in due:
            del self._later[number]
        self._waiting = sorted([*due, *self._waiting])
        return self._waiting

    def _start(self, trial_id: str, number: int, values: Mapping[str, Value]) -> dict[str, Any]:
        self._running[trial_id] = number
        return {"number": number, "values": dict(values)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Called by Ray Tune."""
        if result.get("value") is not None:
            self._ledger.report(self._running[trial_id], result["epoch"], result["value"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Ray Tune."""
        number = self._running.pop(trial_id, None)
        if number is None:
            return
        if error and self._deaths[number] < len(AGAIN_S):
            self._later[number] = time.monotonic() + AGAIN_S[self._deaths[number]]
            self._deaths[number] += 1
            return
        logged = [record for record in read_metrics(self._run(number).metrics_file)[0] if "loss" in record]
        spent = {"seconds": logged[-1]["seconds"], "epochs": logged[-1]["epoch"]} if logged else {}
        self._ledger.finish(number, _outcome(result or {}, error, spent))
        self._hopeless |= bool((result or {}).get("hopeless"))
        self._ended(number)

    # Ray Tune saves its search algorithm from time to time; all there is to know is in the study
    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing."""


def _outcome(result: Mapping[str, Any], error: bool, spent: Mapping[str, Any]) -> Outcome:
    if error:
        return Outcome("failed", reason=DIED, **spent)
    if result.get("failed"):
        return Outcome("failed", reason=result["failed"], **spent)
    if not result.get("final"):
        return Outcome("stopped", **spent)
    return Outcome("complete", values=tuple(result["values"]), **spent)


class Places:
    """How many trials may run at once; the cluster is asked again now and then, since nodes come and go.

    Args:
        most: at once, however many the cluster holds; None: as many as that.
        count: asks the cluster.
        every: seconds between looks.
    """

    def __init__(self, most: int | None, count: Callable[[], int], every: float = 5.0) -> None:
        self._most, self._count, self._every = most, count, every
        self._known, self._looked = 0, -math.inf

    def __call__(self) -> int:
        if time.monotonic() - self._looked >= self._every:
            self._known, self._looked = max(self._count(), 1), time.monotonic()
        return self._known if self._most is None else min(self._known, self._most)

    @property
    def wanted(self) -> int:
        """What the order of suggestions goes by: the number asked for, though fewer may run for now."""
        return self() if self._most is None else self._most
