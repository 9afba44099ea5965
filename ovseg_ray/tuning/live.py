"""The state of a sweep while it runs: a table on a terminal, a line for each trial that ends in a log."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any

from ray.tune import Callback
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ovseg_ray.progress import clock
from ovseg_ray.tuning.ledger import Ledger, Outcome, State, curve_of
from ovseg_ray.tuning.space import name_of

SHOWN = 12  # rows of the table: those that run, then the best of the others
SIGNS: dict[State, str] = {"complete": "done", "stopped": "stopped early", "failed": "failed"}


class LiveTable:
    """Shows a sweep on stderr within a block.

    Args:
        ledger: of the sweep.
        trials: how many there are to be.
    """

    def __init__(self, ledger: Ledger, trials: int) -> None:
        self._ledger, self._trials = ledger, trials
        self._started, self._before = time.monotonic(), self._ended()
        self._at: dict[int, float] = {}
        self._lock = threading.Lock()
        self._live = (
            Live(console=Console(stderr=True), get_renderable=self.table, refresh_per_second=1)
            if sys.stderr.isatty()
            else None
        )

    def __enter__(self) -> LiveTable:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def callback(self) -> Callback:
        """What tells Ray Tune's news to the table."""
        return _Callback(self)

    def progressed(self, number: int, epoch: float) -> None:
        """A trial has come to an epoch."""
        self._at[number] = epoch

    def ended(self, number: int) -> None:
        """A trial has come to an end."""
        outcome = self._ledger.outcome(self._ledger.trials()[number])
        if outcome is None or self._live:
            return
        print(f"tune: trial {number} {self._told(outcome)}; {self._count()}", file=sys.stderr, flush=True)

    def table(self) -> Table:
        """Trials that run and the best of those that ended."""
        with self._lock:
            rows = []
            for trial in self._ledger.trials():
                outcome, curve = self._ledger.outcome(trial), curve_of(trial)
                value = outcome.values[0] if outcome and outcome.values else (curve[-1][1] if curve else None)
                rows.append((outcome, value, trial))
            first = self._ledger.space.objectives[0]
            sign = -1 if first.mode == "max" else 1
            rows.sort(key=lambda row: (row[0] is not None, row[1] is None, sign * (row[1] or 0)))
            table = Table(title=self._count(), title_justify="left")
            keys = list(self._ledger.space.space)
            for name in ("trial", "state", "epoch", first.metric, *(key.split(".")[-1] for key in keys)):
                table.add_column(name)
            for outcome, value, trial in rows[:SHOWN]:
                epoch = outcome.epochs if outcome else self._at.get(trial.number, 0.0)
                values = [_short(trial.params.get(key)) for key in keys]
                state = SIGNS[outcome.state] if outcome else "runs"
                table.add_row(str(trial.number), state, f"{epoch:.3g}", _short(value), *values)
            return table

    def _ended(self) -> int:
        return sum(self._ledger.outcome(trial) is not None for trial in self._ledger.trials())

    def _told(self, outcome: Outcome) -> str:
        if outcome.values is not None:
            names = (objective.metric for objective in self._ledger.space.objectives)
            return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, outcome.values, strict=True))
        return (
            f"failed: {outcome.reason}" if outcome.state == "failed" else f"stopped after {outcome.epochs:.3g} epochs"
        )

    def _count(self) -> str:
        outcomes = [self._ledger.outcome(trial) for trial in self._ledger.trials()]
        ended, elapsed = sum(outcome is not None for outcome in outcomes), time.monotonic() - self._started
        new = ended - self._before
        left = clock((self._trials - ended) * elapsed / new) if new else "?"
        found = [outcome.values[0] for outcome in outcomes if outcome and outcome.values]
        pick = max if self._ledger.space.objectives[0].mode == "max" else min
        best = f", best {self._ledger.space.objectives[0].metric} {pick(found):.4g}" if found else ""
        return f"{ended}/{self._trials} trials{best}, ETA {left}"


class _Callback(Callback):
    def __init__(self, table: LiveTable) -> None:
        self._table = table

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray Tune pickles its callbacks for a restore that nobody asks for

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        epoch = result.get("at", result.get("epoch"))
        if epoch is not None:
            self._table.progressed(trial.config["number"], epoch)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._table.ended(trial.config["number"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._table.ended(trial.config["number"])


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else name_of(value)
