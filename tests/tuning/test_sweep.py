"""Sweeps on Ray: to their end, through a kill, and what is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
from training_tools import curve, make_loop
from trials import MakeBase, colour_trial, quick_trial, ran

import ovseg_ray.tuning.sweep as sweep_module
from ovseg_ray.config import build, dump, read_yaml
from ovseg_ray.errors import UserError
from ovseg_ray.run_directory import RunDirectory
from ovseg_ray.training.checkpoint import newest_checkpoint
from ovseg_ray.training.config import RunConfig
from ovseg_ray.training.metrics import read_metrics
from ovseg_ray.tuning import SweepOptions, SweepSpace, summary, tune
from ovseg_ray.tuning.asha import Halving
from ovseg_ray.tuning.ledger import Ledger, Outcome, open_study
from ovseg_ray.tuning.search import LAG
from ovseg_ray.tuning.space import Asha, Objective


def values_of(ledger: Ledger) -> list[float]:
    return [trial.params["training.optimizer.lr"] for trial in ledger.trials()]


def undisturbed(ledger: Ledger, path: Path) -> list[float]:
    """What a sweep with the same results is told that nobody killed."""
    other = Ledger(open_study(path, "colour", ledger.space), ledger.space, 0, {"training.optimizer.lr": 0.03})
    other.lag = LAG * 2
    for trial in ledger.trials():
        asked = other.ask()
        assert asked is not None
        outcome = ledger.outcome(trial)
        assert outcome is not None
        for epoch, value in ledger.curve(trial.number):
            other.report(asked[0], epoch, value)
        other.finish(asked[0], outcome)
    return values_of(other)


DRIVER = """
import sys
from pathlib import Path
import ray
import yaml
import ovseg_ray.methods.registry as registry
import ovseg_ray.tuning.sweep as sweep_module
import trials
from ovseg_ray.cluster import connect
from ovseg_ray.training.config import RunConfig
from ovseg_ray.tuning import SweepOptions, SweepSpace, tune

registry._METHODS["colour"] = "colour_training:ColourTraining"
sweep_module.run_trial = getattr(trials, sys.argv[5])
base, space = (yaml.safe_load(Path(name).read_text()) for name in sys.argv[1:3])
base, space = RunConfig.model_validate(base), SweepSpace.model_validate(space)
with connect(sys.argv[3]):
    tune(base, space, Path(sys.argv[4]), SweepOptions(int(sys.argv[6]), parallel=int(sys.argv[7])))
"""


def driver_of(
    base: RunConfig, space: SweepSpace, out: Path, trial: str, count: int, at_once: int
) -> subprocess.Popen[bytes]:
    """A sweep in a process of its own, whose words go to a file `log` beside it."""
    beside = out.parent
    for name, content in (("base.yaml", base), ("space.yaml", space)):
        (beside / name).write_text(dump(content))
    command = [sys.executable, "-c", DRIVER, str(beside / "base.yaml"), str(beside / "space.yaml")]
    command += [ray.get_runtime_context().gcs_address, str(out), trial, str(count), str(at_once)]
    with (beside / "log").open("w") as log:
        return subprocess.Popen(command, stderr=log, stdout=log, env=os.environ)


def kill_when(driver: subprocess.Popen[bytes], due: Callable[[], bool], log: Path) -> None:
    """Wait for something, and kill a driver; Ray then ends its trials."""
    deadline = time.monotonic() + 240
    while not due():
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(1.0)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_killed_driver_loses_no_trial_and_runs_none_twice(
    make_base: MakeBase, space: SweepSpace, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, out = make_base(model={"seconds": 0.15}), tmp_path / "sweep"
    driver = driver_of(base, space, out, "quick_trial", 8, 2)
    begun_enough = re.compile(r"[3-9]-2")
    kill_when(
        driver, lambda: (out / "ran").is_dir() and any(map(begun_enough.match, ran(out))), tmp_path / "log"
    )  # fmt: skip
    begun = {int(key.split("-")[0]) for key in ran(out)}
    study = optuna.load_study(study_name="colour", storage=f"sqlite:///{out / 'study.db'}")
    assert len(study.trials) >= len(begun) >= 4
    (out / "trials" / f"{max(begun):04d}" / "kill").touch()  # and a trial's process dies after that, too

    monkeypatch.setattr(sweep_module, "run_trial", quick_trial)
    with pytest.raises(UserError, match="add --resume"):
        tune(base, space, out, SweepOptions(8, parallel=2))
    ledger = tune(base, space, out, SweepOptions(8, parallel=2, resume=True))

    twice = {key for key, count in ran(out).items() if count > 1}
    assert not twice
    assert set(ran(out)) == {f"{number}-{epoch}" for number in range(8) for epoch in range(1, 5)}
    states = [trial.state.name for trial in ledger.trials()]
    assert states == ["COMPLETE", "FAIL"] + ["COMPLETE"] * 6
    assert ledger.outcome(ledger.trials()[1]).reason == "step 3: the loss is not finite"  # type: ignore[union-attr]
    assert values_of(ledger) == undisturbed(ledger, tmp_path / "undisturbed.db")
    best = ledger.study.best_trial
    assert read_yaml(out / "best.yaml")["training"]["optimizer"]["lr"] == best.params["training.optimizer.lr"]
    assert summary(ledger, out) == {
        "trials": 8, "complete": 7, "stopped": 0, "failed": 1, "best": str(out / "best.yaml"),
        "study": str(out / "study.db"), "report": str(out / "report.html"),
    }  # fmt: skip
    page = (out / "report.html").read_text()
    assert "the loss is not finite" in page
    for plot in ("History", "Importance of keys", "Parallel coordinates", "Curves"):
        assert f"<h2>{plot}</h2>" in page
    assert not re.search(r"<(script|link|img)[^>]* (src|href)=", page)  # nothing is fetched
    more = tune(base, space, out, SweepOptions(9, parallel=2, resume=True))
    assert len(more.trials()) == 9
    with pytest.raises(UserError, match=r"another sweep \(seed differs\)"):
        tune(base, space, out, SweepOptions(9, seed=1, resume=True))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_killed_driver_leaves_a_training_that_goes_on_from_its_checkpoint(
    make_base: MakeBase, space: SweepSpace, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, starts, hurry = tmp_path / "sweep", tmp_path / "starts", tmp_path / "hurry"
    starts.mkdir()
    model = {"seconds": 0.1, "starts": str(starts), "hurry": str(hurry)}
    base = make_base(model=model, epochs=4, checkpoint_every=1)
    ended, running = (RunDirectory(out / "trials" / f"{number:04d}") for number in range(2))
    driver = driver_of(base, space, out, "colour_trial", 2, 1)
    kill_when(driver, lambda: newest_checkpoint(running.checkpoints) is not None, tmp_path / "log")
    written = -1
    while written != (written := running.metrics_file.stat().st_size):
        time.sleep(1.0)  # until its worker is gone, too
    assert ended.finished
    assert not running.finished
    when, newest = (ended.model / "model.json").stat().st_mtime_ns, newest_checkpoint(running.checkpoints)
    assert newest is not None
    kept = [record for record in losses_of(running) if record["step"] <= int(newest.name.split("-")[1])]
    whole = losses_of(ended)
    assert len(list(starts.iterdir())) == 2

    hurry.touch()
    monkeypatch.setattr(sweep_module, "run_trial", colour_trial)
    ledger = tune(base, space, out, SweepOptions(2, parallel=1, resume=True))
    assert [trial.state.name for trial in ledger.trials()] == ["COMPLETE"] * 2
    assert len(list(starts.iterdir())) == 3, "a trial that had ended was trained again"
    assert (ended.model / "model.json").stat().st_mtime_ns == when
    assert losses_of(ended) == whole
    assert [record["step"] for record in losses_of(running)] == list(range(1, 17))
    assert losses_of(running)[: len(kept)] == kept, "what a checkpoint held was trained again"


def losses_of(run: RunDirectory) -> list[dict[str, Any]]:
    return [record for record in read_metrics(run.metrics_file)[0] if "loss" in record]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(200)
def test_trials_that_fall_behind_end_early(
    make_base: MakeBase, space: SweepSpace, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "run_trial", quick_trial)
    rules = build(SweepSpace, {**space.model_dump(mode="json"), "scheduler": {"name": "asha", "reduction": 2}})
    base, out = make_base(model={"seconds": 0.5}), tmp_path / "sweep"
    ledger = tune(base, rules, out, SweepOptions(6, parallel=2))

    halving = Halving(Asha(name="asha", reduction=2), Objective(metric="miou"), 4)
    fates: list[str] = []
    for trial, end in zip(ledger.trials(), halving.ends([ledger.curve(n) for n in range(6)]), strict=True):
        outcome = ledger.outcome(trial)
        assert outcome is not None
        fates.append(outcome.state)
        if outcome.state == "failed":  # trial 1 fails at its end, if it comes so far
            continue
        assert (outcome.state == "stopped") is (end is not None)
        if end is not None:
            assert trial.intermediate_values == {1000 * int(e): v for e, v in ledger.curve(trial.number) if e <= end}
    assert {"complete", "stopped"} <= set(fates), fates
    assert len(ran(out)) < 6 * 4, "nobody was spared an epoch"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_trial_is_a_training_whatever_died_and_whoever_it_turned_to(
    make_base: MakeBase, space: SweepSpace, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch,
    colours: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(sweep_module, "run_trial", colour_trial)
    rules = {**space.model_dump(mode="json"), "scheduler": {"name": "pbt", "interval": 1, "quantile": 0.5}}
    rules["objectives"] = [{"metric": "miou"}, {"metric": "memory_mb", "mode": "min"}]
    dies = {"crash_at": "train_011", "flag": str(tmp_path / "died")}  # the training process of a trial, once
    base = make_base(model=dies, epochs=2, validate_every=2)
    ledger = tune(base, build(SweepSpace, rules), tmp_path / "sweep", SweepOptions(2, parallel=2))
    job = resolve_run(tmp_path / "sweep" / "trials" / "0000")
    assert job.data.validation_share == 0.2
    assert job.training.validate_every == 1
    assert (tmp_path / "died").exists()
    for number in range(2):
        records = read_metrics(tmp_path / "sweep" / "trials" / f"{number:04d}" / "metrics.jsonl")[0]
        assert [record["step"] for record in records if "loss" in record] == list(range(1, 9))
    outcomes = [ledger.outcome(trial) for trial in ledger.trials()]
    assert [outcome.state for outcome in outcomes if outcome] == ["complete", "complete"]
    # of two the worse went on from the other: its run is a training from the beginning that nothing disturbed
    (turned,) = [number for number in range(2) if ledger.member(number).turns]
    assert ledger.member(turned).origin == 1 - turned
    path = tmp_path / "sweep" / "trials" / f"{turned:04d}"
    records = [record for record in read_metrics(path / "metrics.jsonl")[0] if "loss" in record]
    assert [epoch for epoch, _ in resolve_run(path).training.schedule.scales] == [1.0]
    for found, expected in zip(records, curve(make_loop(resolve_run(path))), strict=True):
        assert found["lr"] == pytest.approx(expected["lr"])
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    with pytest.raises(UserError, match=r"another sweep \(trials differs\)"):
        tune(base, build(SweepSpace, rules), tmp_path / "sweep", SweepOptions(3, parallel=2, resume=True))
    assert all(outcome.epochs == 2 for outcome in outcomes if outcome)
    assert [len(ledger.curve(number)) for number in range(2)] == [2, 2]
    assert 0 < ledger.trials()[0].values[1] < 10  # megabytes
    assert not (tmp_path / "sweep" / "trials" / "0000" / "checkpoints").exists()
    # the held-out split was never opened by a trial, and `train` takes what is left
    assert not list((tmp_path / "sweep").glob("**/*val_00*"))
    names = sorted(path.name for path in (tmp_path / "sweep").glob("best*.yaml"))
    assert names[-1] == "best.yaml"
    assert len(names) > 1
    best = build(RunConfig, read_yaml(tmp_path / "sweep" / "best.yaml"))
    first = max(ledger.study.best_trials, key=lambda trial: trial.values[0]).number
    assert best.training.schedule.scales == [tuple(scale) for scale in ledger.member(first).scales]
    assert best.data == base.data.model_copy(update={"sources": best.data.sources})
    assert "<h2>Pareto front</h2>" in (tmp_path / "sweep" / "report.html").read_text()


def resolve_run(path: Path) -> RunConfig:
    return build(RunConfig, read_yaml(path / "config.yaml"))


def test_what_is_wrong_is_told_before_anything_starts(
    make_base: MakeBase, space: SweepSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "_cluster", lambda: (2, 0.0, 1))
    wrong: Any = {"space": {"training.optimizer.lt": {"type": "float", "low": 0.1, "high": 1.0}}}
    with pytest.raises(UserError, match=r"unknown key 'training.optimizer.lt'; did you mean 'training.optimizer.lr'"):
        tune(make_base(), build(SweepSpace, wrong), tmp_path / "sweep", SweepOptions())
    with pytest.raises(UserError, match="19 images"):
        tune(make_base(batch_size=64), space, tmp_path / "sweep", SweepOptions())
    large: Any = {"space": {"training.batch_size": {"type": "choice", "values": [4, 64]}}}
    with pytest.raises(UserError, match=r"training.batch_size = 64 is refused .*19 images"):
        tune(make_base(), build(SweepSpace, large), tmp_path / "sweep", SweepOptions())
    assert not (tmp_path / "sweep").exists()
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "file").touch()
    with pytest.raises(UserError, match="holds no sweep"):
        tune(make_base(), space, tmp_path / "sweep", SweepOptions())


def test_a_sweep_that_found_nothing_says_why(
    make_base: MakeBase, space: SweepSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(job: Any, ledger: Ledger, options: Any, count: Any) -> None:
        ledger.ask()
        ledger.finish(0, Outcome("failed", reason="no masks"))

    monkeypatch.setattr(sweep_module, "_fit", fail)
    monkeypatch.setattr(sweep_module, "_cluster", lambda: (2, 0.0, 1))
    with pytest.raises(UserError, match="no trial was completed; trial 0 failed: no masks; mend that"):
        tune(make_base(), space, tmp_path / "sweep", SweepOptions(1))
    assert "no masks" in (tmp_path / "sweep" / "report.html").read_text()
    assert not (tmp_path / "sweep" / "best.yaml").exists()


@pytest.mark.parametrize(
    ("cpus", "gpus", "parallel", "share", "each", "at_once"),
    [
        (2, 0.0, None, 1.0, 1, 2),
        (7, 0.0, 2, 1.0, 3, 2),
        (7, 0.0, 4, 1.0, 1, 7),  # --parallel holds back the rest
        (15, 1.0, None, 0.5, 7, 2),
        (15, 2.0, None, 1.0, 7, 2),
        (63, 8.0, None, 1.0, 7, 8),
        (63, 8.0, None, 2.0, 15, 4),
    ],
)
def test_what_a_trial_takes_of_a_cluster(
    monkeypatch: pytest.MonkeyPatch, cpus: int, gpus: float, parallel: int | None, share: float, each: int, at_once: int
) -> None:
    monkeypatch.setattr(sweep_module, "_cluster", lambda: (cpus, gpus, 1))
    worker, count = sweep_module._shares(SweepOptions(parallel=parallel, gpus=share))
    assert (worker.cpus, count()) == (each, at_once)


@pytest.mark.parametrize(
    ("options", "gpus", "text"),
    [
        (SweepOptions(workers=8), 0.0, "--workers 8: this machine has 2 CPUs for trainings, too few"),
        (SweepOptions(workers=2), 1.0, "2 CPUs for trainings and 1 GPUs, too few"),
        (SweepOptions(gpus=1.5), 1.0, "--gpus 1.5: a worker takes a share of one GPU, or whole ones"),
    ],
)
def test_a_trial_that_fits_nowhere_is_refused(
    monkeypatch: pytest.MonkeyPatch, options: SweepOptions, gpus: float, text: str
) -> None:
    monkeypatch.setattr(sweep_module, "_cluster", lambda: (2, gpus, 1))
    with pytest.raises(UserError, match=re.escape(text)):
        sweep_module._shares(options)


def test_one_command_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").touch()
    match = "another command is at this sweep"
    with sweep_module._alone(tmp_path), pytest.raises(UserError, match=match), sweep_module._alone(tmp_path):
        pass
    with sweep_module._alone(tmp_path):  # free again
        pass
