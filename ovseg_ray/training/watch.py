"""Progress of a training on the driver, read from what the run directory says."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ovseg_ray.progress import ProgressBar
from ovseg_ray.training.metrics import read_metrics

POLL_S = 0.5


@contextmanager
def watch(metrics: Path, description: str, total_steps: int) -> Iterator[None]:
    """Show progress while the block runs.

    Reading a file needs nothing but the storage that driver and workers share anyway.

    Args:
        metrics: `metrics.jsonl` of the run.
        description: in front of the bar.
        total_steps: of the training.
    """
    with ProgressBar(description, total_steps) as bar, repeated(_View(bar, metrics).refresh, POLL_S):
        yield


@contextmanager
def repeated(call: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call something every so many seconds, in a thread, while the block runs, and once more after it."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(seconds):
            call()

    thread = threading.Thread(target=poll, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        call()


class _View:
    def __init__(self, bar: ProgressBar, metrics: Path) -> None:
        self._bar, self._metrics = bar, metrics
        earlier, self._position = read_metrics(metrics)
        self._step = max((record["step"] for record in earlier if "loss" in record), default=0)
        self._notes = {"workers": "start and load"}  # half a minute, before there is a step to show
        self._started = False

    def refresh(self) -> None:
        records, self._position = read_metrics(self._metrics, self._position)
        for record in records:
            self._notes.pop("workers", None)
            if "loss" in record:
                self._step = record["step"]
                self._notes["loss"] = f"{record['loss']:.4g}"
                self._notes["images/s"] = f"{record['images_per_second']:.1f}"
                if not self._started:
                    self._started = True
                    self._bar.start(self._step)
            elif "validation" in record:
                self._note_validation(record["validation"])
            else:
                print(f"validation at step {record['step']} failed: {record['validation_error']}", file=sys.stderr)
        self._bar.update(self._step, **self._notes)

    def _note_validation(self, found: dict[str, float | None]) -> None:
        name, key = ("mIoU", "miou") if "miou" in found else ("validation loss", "loss")
        if "agreement" in found:
            name = key = "agreement"
        value = found.get(key)
        self._notes[name] = "none" if value is None else f"{value:.4g}"
