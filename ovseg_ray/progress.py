"""Progress with an estimate of the time left: a live bar on a terminal, one plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_INTERVAL_S = 10.0


class ProgressBar:
    """Progress of one piece of work on stderr.

    Example:
        >>> with ProgressBar("embed", total=100, unit="images") as bar:
        ...     bar.update(10, loss="0.52")
    """

    def __init__(self, description: str, total: int, unit: str = "steps") -> None:
        self._description, self._total, self._unit = description, max(total, 1), unit
        self._started = self._said = self._counted = time.monotonic()
        self._first = self._done = 0
        self._told = self._started
        self._left: float | None = None
        self._rich: Progress | None = None
        if sys.stderr.isatty():
            self._rich = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._task = self._rich.add_task(description, total=self._total, note="")

    def __enter__(self) -> ProgressBar:
        if self._rich:
            self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich:
            self._rich.stop()
        elif kind is None:
            self._say(f"done in {clock(time.monotonic() - self._started)}")

    def start(self, done: int) -> None:
        """Count speed from here on: neither start-up nor resumed work belongs in the estimate."""
        self._first = self._done = done
        self._counted, self._left = time.monotonic(), None
        self.update(done)

    def update(self, done: int, **notes: str) -> None:
        """Set the amount done so far; `notes` (loss="0.52") are shown behind it."""
        note = "  ".join(f"{key} {value}" for key, value in notes.items())
        if self._rich:
            self._rich.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if done != self._done:  # else the estimate would grow until the next news
            new, self._done, self._told = done - self._first, done, now
            self._left = (self._total - done) * (now - self._counted) / new if new > 0 else None
        if now - self._said >= PLAIN_INTERVAL_S:
            self._said = now
            left = clock(max(self._left - (now - self._told), 0)) if self._left is not None else "?"
            self._say(f"{done}/{self._total} {self._unit}, ETA {left}  {note}".rstrip())

    def _say(self, text: str) -> None:
        print(f"{self._description}: {text}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Seconds as 3:07 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
