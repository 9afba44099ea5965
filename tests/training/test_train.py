"""The driver's side, and the whole of it on Ray."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from colour_training import ColourTraining, write_colours
from training_tools import MakeConfig, curve, make_loop, tell_deviation

from ovseg_ray.config import SourceConfig, dump
from ovseg_ray.errors import UserError
from ovseg_ray.methods.export import load_model
from ovseg_ray.run_directory import RunDirectory
from ovseg_ray.training import RunConfig, train
from ovseg_ray.training.metrics import read_metrics
from ovseg_ray.training.train import (
    SNAPSHOT,
    explain_failure,
    newest_known,
    validation_sources,
    with_absolute_paths,
)


def unbroken(config: RunConfig) -> list[dict[str, Any]]:
    return curve(make_loop(config))


def check_curve(run: RunDirectory, config: RunConfig) -> None:
    """The run's metrics are those of a training that nothing disturbed, each step once."""
    expected = unbroken(config)
    records = [record for record in read_metrics(run.metrics_file)[0] if "loss" in record]
    assert [record["step"] for record in records] == [record["step"] for record in expected]
    tell_deviation([record["loss"] for record in records], [record["loss"] for record in expected])
    for found, wanted in zip(records, expected, strict=True):
        for key in ("loss", "loss/ce", "lr", "grad_norm", "epoch"):
            assert found[key] == pytest.approx(wanted[key], rel=1e-4, abs=1e-5), (key, found["step"])


@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.timeout(240)
def test_two_workers_of_which_one_is_killed(
    make_config: MakeConfig, tmp_path: Path, ray_cluster: None, capfd: pytest.CaptureFixture[str]
) -> None:
    crash = {"crash_at": "train_011", "flag": str(tmp_path / "crashed")}
    (tmp_path / "crashed").touch()  # the process of the comparison must live
    held_out = {"sources": [{**make_config().data.sources[0].model_dump(), "held_out": ["green"]}]}
    config = make_config(model=crash, data=held_out, epochs=4, checkpoint_every=0.34, validate_every=2, ema_decay=0.5)
    expected = unbroken(config)
    (tmp_path / "crashed").unlink()

    run = train(config, tmp_path / "run", workers=2)

    assert (tmp_path / "crashed").exists()
    check_curve(run, config)
    records = read_metrics(run.metrics_file)[0]
    validations = [record for record in records if "validation" in record]
    assert [record["step"] for record in validations] == [6, 12]
    assert {"miou", "seen_miou", "unseen_miou", "harmonic_miou"} <= set(validations[0]["validation"])
    assert validations[-1]["validation"]["seen_miou"] > 0.3
    assert "train colour: done in" in capfd.readouterr().err
    # the averaged weights are what is exported, with the labels trained on
    model = load_model(run.model)
    assert model.label_sets[0].names == ("red", "blue", "yellow")
    loop = make_loop(config)
    loop.run(lambda record: None, lambda validate: None)
    for name, value in loop.ema.average.items():
        np.testing.assert_allclose(model.state_dict()[name], value, rtol=1e-3, atol=1e-5)
    best = [path.name for path in run.best.iterdir()]
    assert len(best) == 1
    assert load_model(run.best / best[0]).label_sets == model.label_sets
    assert [path.name for path in run.checkpoints.glob("step-*")] == ["step-00000012"]
    assert list((run.path / "tensorboard").iterdir())
    provenance = json.loads(run.provenance_file.read_text())
    assert provenance["world_size"] == 2
    assert provenance["step"] == 12 == len(expected)
    assert provenance["data"][0]["held_out"] == ["green"]
    assert provenance["packages"]["torch"]

    started = time.monotonic()
    assert train(config, tmp_path / "run", workers=2, resume=True) == run
    assert time.monotonic() - started < 2
    with pytest.raises(UserError, match="--resume"):
        train(config, tmp_path / "run", workers=2)


DRIVER = """
import sys
import ray
import yaml
import ovseg_ray.methods.registry as registry
from pathlib import Path
from ovseg_ray.cluster import connect
from ovseg_ray.training import RunConfig, train

registry._METHODS["colour"] = "colour_training:ColourTraining"
config = RunConfig.model_validate(yaml.safe_load(Path(sys.argv[1]).read_text()))
with connect(sys.argv[2] or None):
    train(config, Path(sys.argv[3]))
"""


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.timeout(240)
def test_a_killed_driver_goes_on_with_resume(make_config: MakeConfig, tmp_path: Path, ray_cluster: None) -> None:
    config = make_config(model={"seconds": 0.02}, epochs=8, checkpoint_every=1.7, validate_every=0)
    run = RunDirectory(tmp_path / "run")
    (tmp_path / "config.yaml").write_text(dump(config))
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "config.yaml"), address, str(run.path)]
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(command, stderr=log, stdout=log, env=os.environ)
    try:
        deadline = time.monotonic() + 120
        while not (run.checkpoints / SNAPSHOT).exists() or read_metrics(run.metrics_file)[0][-1]["step"] < 7:
            assert driver.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert not run.finished
    with pytest.raises(UserError, match="not finished"):
        RunDirectory.open(run.path)
    time.sleep(2)  # the cluster ends what the dead driver had started
    # as a kill in the middle of writing leaves it
    partial = run.checkpoints / ".step-00000099.abc.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    with run.metrics_file.open("a") as file:
        file.write('{"step": 23, "loss": 9')
    with pytest.raises(UserError, match="different run"):
        train(config.model_copy(update={"training": config.training.model_copy(update={"seed": 1})}), run.path)

    assert train(config, run.path, resume=True) == run

    check_curve(run, config)
    assert not partial.exists()
    assert run.finished


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in listed.splitlines())}
    found = [pid]
    for member in found:  # grows while it is walked
        found += [child for child, parent in parents.items() if parent == member]
    return found


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.timeout(240)
def test_a_killed_job_goes_on_in_another(make_config: MakeConfig, tmp_path: Path, ray_cluster: None) -> None:
    config = make_config(model={"seconds": 0.02}, epochs=8, checkpoint_every=1.7, validate_every=0)
    run = RunDirectory(tmp_path / "run")
    (tmp_path / "config.yaml").write_text(dump(config))
    # no address: a Ray of its own, which dies with it
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "config.yaml"), "", str(run.path)]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(command, stderr=log, stdout=log, env=os.environ)
    try:
        deadline = time.monotonic() + 150
        while not (run.checkpoints / SNAPSHOT).exists() or read_metrics(run.metrics_file)[0][-1]["step"] < 7:
            assert job.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        processes = family(job.pid)
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        job.wait()
    assert len(processes) > 3  # the driver, Ray's own and the worker
    assert not run.finished

    assert train(config, run.path, resume=True) == run

    check_curve(run, config)


@pytest.mark.slow
@pytest.mark.ray
def test_a_mistake_that_a_worker_meets_is_one_line(make_config: MakeConfig, tmp_path: Path, ray_cluster: None) -> None:
    config = make_config(model={"wrong_at": "train_003"}, data={"loader_workers": 1})
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        train(config, tmp_path / "run")
    assert type(caught.value) is UserError
    assert str(caught.value).endswith("train_003: is damaged; replace the file")
    assert "\n" not in str(caught.value)
    assert not RunDirectory(tmp_path / "run").finished
    assert time.monotonic() - started < 60  # no second attempt


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"training": {"batch_size": 100}}, "the data has 24 images"),
        ({"training": {"batch_size": 9, "accumulate": 2}, "workers": 2}, "nearest that does is 8"),
        ({"training": {"batch_size": 2}, "workers": (1, 3)}, "3 workers × 1 micro-batches; use at least 3"),
        (
            {"training": {"batch_norm_images": 3}, "workers": 2},
            "batch_norm_images = 3: does not fit a batch of 4 [+] 4",
        ),
        ({"data": {"sources": []}}, "--data PATH"),
        ({"data": {"held_out_label": "grean"}}, "did you mean 'green'"),
        ({"model": {"dropout": "much"}}, "model: dropout"),
        ({"model": {"dropuot": 1}}, "did you mean 'dropout'"),
        ({"method": "color"}, "did you mean 'colour'"),
    ],
)
def test_mistakes_are_found_before_anything_starts(
    make_config: MakeConfig, tmp_path: Path, change: dict, text: str
) -> None:
    values = make_config().model_dump()
    if "held_out_label" in change.get("data", {}):
        values["data"]["sources"][0]["held_out"] = [change["data"]["held_out_label"]]
    elif "data" in change:
        values["data"].update(change["data"])
    values["training"].update(change.get("training", {}))
    values["model"].update(change.get("model", {}))
    values["method"] = change.get("method", "colour")
    with pytest.raises(UserError, match=text) as caught:
        train(RunConfig.model_validate(values), tmp_path / "run", workers=change.get("workers", 1))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_paths_become_absolute(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.yaml").touch()
    sources = [{"path": "data", "vocabulary": "labels.yaml"}, {"path": "/data", "vocabulary": "coco-80"}]
    config = RunConfig.model_validate({**make_config().model_dump(), "data": {"sources": sources}})
    found = with_absolute_paths(config).data.sources
    assert [source.path for source in found] == [str(tmp_path / "data"), "/data"]
    assert [source.vocabulary for source in found] == [str(tmp_path / "labels.yaml"), "coco-80"]


class _Failure(Exception):
    def __init__(self, worker_failures: dict[int, Exception] | None = None, controller: Exception | None = None):
        super().__init__("Training failed due to worker errors:\nTraceback\n  ...")
        self.worker_failures, self.controller_failure = worker_failures, controller


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (_Failure(controller=UserError("a.png: damaged")), UserError, "^a.png: damaged$"),
        (_Failure({1: ValueError("other"), 0: UserError("b.png: damaged")}), UserError, "^b.png: damaged$"),
        (_Failure({1: ValueError("first\nlast")}), RuntimeError, r"ValueError: last\).*logs/train"),
        (_Failure(controller=KeyError()), RuntimeError, "KeyError"),
    ],
)
def test_failures_are_told_in_a_line(error: Exception, kind: type[Exception], text: str) -> None:
    told = explain_failure(error)
    assert type(told) is kind
    with pytest.raises(kind, match=text):
        raise told


def test_a_cut_off_record_of_checkpoints_does_not_lose_the_run(make_config: MakeConfig, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert newest_known(run) is None
    for name in ("step-00000004", "step-00000012", ".step-00000016.ab.partial"):
        (run.checkpoints / name).mkdir(parents=True)
    assert newest_known(run) == run.checkpoints / "step-00000012"  # killed before Ray Train wrote its record
    (run.checkpoints / SNAPSHOT).write_text('{"ray_version": "2.60.0"}')
    assert newest_known(run) is None  # a whole record: it is Ray Train that decides
    (run.checkpoints / SNAPSHOT).write_text('{"ray_ver')
    assert newest_known(run) == run.checkpoints / "step-00000012"
    assert not (run.checkpoints / SNAPSHOT).exists()


def test_sets_without_a_validation_split_are_told_and_left_out(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write_colours(tmp_path / "plain", val=0)
    (plain / "val.txt").unlink()
    for folder in ("images", "masks"):
        (plain / folder / "val").rmdir()
    sources = [SourceConfig(path=str(plain)), make_config().data.sources[0]]
    found = validation_sources(make_config(data={"sources": sources}), ColourTraining)
    assert found == (sources[1],)
    assert f"validation: {plain} has no split 'val'" in capsys.readouterr().err
