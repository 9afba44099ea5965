"""Ctrl-C during a training."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import ray
from ray.train.torch import TorchTrainer

from ovseg_ray.training.interrupts import Trainer, own_interrupts


class Controller:
    """Of a training; what it is told to do is noted on stderr, beside what the user reads."""

    @property
    def abort(self) -> Controller:
        return self

    def remote(self) -> str:
        return "abort"


@pytest.fixture
def _own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_own_signals")
def test_the_user_hears_of_it_before_ray_begins_and_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    done: list[str] = []

    def get(reference: str) -> None:
        done.append(reference)
        assert capsys.readouterr().err == "stopping: Ray ends the workers, which takes some seconds\n"

    monkeypatch.setattr(ray, "get", get)
    with own_interrupts():
        Trainer.__new__(Trainer)._register_sigint_handler(Controller())
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert done == ["abort"]
        assert capsys.readouterr().err == ""
        with pytest.raises(SystemExit):  # the third is Ray's way out at once
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_ray_registers_its_handler_where_this_expects_it() -> None:
    run = TorchTrainer._initialize_and_run_controller
    assert "_register_sigint_handler" in run.__code__.co_names
