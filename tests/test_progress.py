from __future__ import annotations

import pytest

import ovseg_ray.progress as progress
from ovseg_ray.progress import ProgressBar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("embed", total=100, unit="images") as bar:
        for done in range(0, 101, 5):
            clock[0] = done / 2
            bar.update(done, loss="0.5")
    assert capsys.readouterr().err.splitlines() == [
        "embed: 20/100 images, ETA 0:40  loss 0.5",
        "embed: 40/100 images, ETA 0:30  loss 0.5",
        "embed: 60/100 images, ETA 0:20  loss 0.5",
        "embed: 80/100 images, ETA 0:10  loss 0.5",
        "embed: 100/100 images, ETA 0:00  loss 0.5",
        "embed: done in 0:50",
    ]


def test_start_up_and_resumed_work_are_not_in_the_estimate(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    bar = ProgressBar("train", total=1000)
    clock[0] = 60.0
    bar.update(0)
    clock[0] = 100.0
    bar.start(500)
    clock[0] = 110.0
    bar.update(510)
    assert capsys.readouterr().err.splitlines() == [
        "train: 0/1000 steps, ETA ?",
        "train: 500/1000 steps, ETA ?",
        "train: 510/1000 steps, ETA 8:10",
    ]


def test_a_failure_is_not_called_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), ProgressBar("x", 10):
        raise KeyError
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3725, "1:02:05")])
def test_clock(seconds: float, text: str) -> None:
    assert progress.clock(seconds) == text


def test_the_estimate_does_not_grow_while_there_is_no_news(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    bar = ProgressBar("train", total=100)
    for now in (20.0, 35.0, 50.0, 500.0):
        clock[0] = now
        bar.update(25)
    assert capsys.readouterr().err.splitlines() == [
        "train: 25/100 steps, ETA 1:00",
        "train: 25/100 steps, ETA 0:45",
        "train: 25/100 steps, ETA 0:30",
        "train: 25/100 steps, ETA 0:00",
    ]
