from __future__ import annotations

import time
from pathlib import Path

import pytest

import ovseg_ray.progress as progress
import ovseg_ray.training.watch as watching
from ovseg_ray.training.metrics import append_metrics, truncate_metrics
from ovseg_ray.training.watch import watch


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLL_S", 0.02)
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0.0)


def line(step: int, loss: float) -> dict:
    return {"step": step, "loss": loss, "images_per_second": 3.0}


def test_it_shows_what_the_file_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    with watch(path, "train x", 40):
        time.sleep(0.1)
        append_metrics(path, line(10, 0.5))
        time.sleep(0.1)
        append_metrics(path, line(20, 0.25))
        append_metrics(path, {"step": 10, "validation": {"miou": 0.75}})
        append_metrics(path, {"step": 20, "validation_error": "v.png: damaged"})
        time.sleep(0.1)
        truncate_metrics(path, 10)  # a worker failed, and training goes on from step 10
        time.sleep(0.1)
        append_metrics(path, line(40, 0.125))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train x: 0/40 steps, ETA ?  workers start and load"
    assert "workers" not in lines[-2]
    assert any("10/40" in text and "loss 0.5  images/s 3.0" in text for text in lines)
    assert "validation at step 20 failed: v.png: damaged" in lines
    assert lines[-2].startswith("train x: 40/40 steps, ETA 0:00  loss 0.125  images/s 3.0  mIoU 0.75")
    assert lines[-1].startswith("train x: done in 0:0")


def test_a_failure_is_not_called_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), watch(tmp_path / "metrics.jsonl", "train x", 40):
        raise KeyError
    assert "done" not in capsys.readouterr().err
