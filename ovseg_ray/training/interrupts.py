"""Ctrl-C during a training: Ray Train ends the run, which takes it some seconds; the user hears of it at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ray.train.torch import TorchTrainer


class Trainer(TorchTrainer):
    """Ray's trainer, which says that it stops before it does."""

    def _register_sigint_handler(self, controller: Any) -> None:
        # Ray's own, called in the main thread alone; should it be renamed, only the line is lost
        super()._register_sigint_handler(controller)
        handle = signal.getsignal(signal.SIGINT)
        assert callable(handle)
        told = False

        def tell_first(number: int, frame: FrameType | None) -> None:
            nonlocal told
            if not told:  # further ones mean haste to Ray
                told = True
                print("stopping: Ray ends the workers, which takes some seconds", file=sys.stderr, flush=True)
            handle(number, frame)

        signal.signal(signal.SIGINT, tell_first)


@contextmanager
def own_interrupts() -> Iterator[None]:
    """Ray Train takes Ctrl-C over and never gives it back; after the block it is as before."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
