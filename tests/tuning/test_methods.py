"""Sweeps of the methods themselves: what their trials share, and what is left of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_stego import make_store
from watched_methods import METHODS, TEMPLATES, StoredStego, watched_trial

import ovseg_ray.methods.registry as registry
import ovseg_ray.tuning.sweep as sweep_module
from ovseg_ray.cluster import WorkerResources
from ovseg_ray.config import build, read_yaml
from ovseg_ray.data import open_dataset
from ovseg_ray.methods.stego import StegoConfig
from ovseg_ray.training import resolve_config, train
from ovseg_ray.tuning import SweepOptions, SweepSpace, tune

LR: dict[str, Any] = {"training.optimizer.lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True}}
SHORT = {"epochs": 1, "batch_size": 4, "log_every": 1, "checkpoint_every": 1, "validate_every": 1}


@pytest.fixture
def _watched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, cls in METHODS.items():
        monkeypatch.setitem(registry._METHODS, name, cls)
    monkeypatch.setattr(sweep_module, "run_trial", watched_trial)


def states(ledger: Any) -> list[tuple[str, str]]:
    outcomes = [ledger.outcome(trial) for trial in ledger.trials()]
    return [(outcome.state, outcome.reason) for outcome in outcomes]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("_watched", "ray_cluster")
def test_texts_are_encoded_once_and_every_point_of_the_front_can_be_trained(colours: Path, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    model = {
        "text": f"watched:{marks}", "templates": list(TEMPLATES), "width": 8, "detail_width": 8,
        "encoder": {"name": "small", "channels": (8, 8, 8, 8)},
        "augmentation": {"crop": [8, 8], "base_size": None, "scale": [1.0, 1.0]},
    }  # fmt: skip
    data = {"sources": [{"path": str(colours)}]}
    base = resolve_config("lseg", None, {"model": model, "data": data, "training": SHORT})
    objectives = [{"metric": "miou"}, {"metric": "latency_ms", "mode": "min"}]
    space = build(SweepSpace, {"objectives": objectives, "space": {**LR, "model.width": {
        "type": "choice", "values": [8, 64]}}})  # fmt: skip
    ledger = tune(base, space, tmp_path / "sweep", SweepOptions(2, parallel=2))
    assert states(ledger) == [("complete", "")] * 2

    labels = open_dataset(colours, "train").require_masks().names
    prompts = [line for mark in marks.iterdir() for line in mark.read_text().splitlines()]
    assert sorted(prompts) == sorted(template.replace("{}", label) for label in labels for template in TEMPLATES)

    front = sorted((tmp_path / "sweep").glob("best-*.yaml"))
    assert len(front) == len(ledger.study.best_trials)
    for file in front:
        number = int(file.stem.split("-")[1])
        config = resolve_config("lseg", str(file), {})
        assert config.training.optimizer.lr == ledger.trials()[number].params["training.optimizer.lr"]
        assert not config.data.validation_share
    run = train(config, tmp_path / "run", worker=WorkerResources(1))
    assert run.finished
    assert read_yaml(run.config_file) == config.model_dump(mode="json")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("_watched", "ray_cluster")
def test_trials_read_one_feature_store_and_run_no_backbone(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*") if path.is_file()}
    model = {"features": str(store.path), "correspondence": {"points": 3, "negatives": 2}}
    data = {"sources": [{"path": str(store.path)}]}
    base = resolve_config("stego", None, {"model": model, "data": data, "training": {**SHORT, "batch_size": 2}})
    with pytest.raises(AssertionError, match="the backbone ran"):  # it would have been noticed
        StoredStego(build(StegoConfig, base.model, "model")).encode(torch.zeros(1, 3, 32, 32))
    rules = {"objectives": [{"metric": "matched_miou"}], "space": {**LR, "model.width": {
        "type": "choice", "values": [4, 8]}}}  # fmt: skip
    ledger = tune(base, build(SweepSpace, rules), tmp_path / "sweep", SweepOptions(2, parallel=2))
    assert states(ledger) == [("complete", "")] * 2
    for number in range(2):
        run = tmp_path / "sweep" / "trials" / f"{number:04d}"
        assert read_yaml(run / "config.yaml")["model"]["features"] == str(store.path)
        assert (run / "model" / "model.json").is_file()
    assert {path: path.stat().st_mtime_ns for path in before} == before
