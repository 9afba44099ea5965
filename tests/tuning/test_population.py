"""Population-based training: who turns to whom, and the same through kills at any moment."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from ray.tune.search import Searcher
from trials import MakeBase

import ovseg_ray.tuning.population as population
from ovseg_ray.config import build, read_yaml
from ovseg_ray.errors import UserError
from ovseg_ray.run_directory import RunDirectory
from ovseg_ray.training.checkpoint import checkpoint_name
from ovseg_ray.training.config import RunConfig
from ovseg_ray.training.metrics import append_metrics, read_metrics
from ovseg_ray.tuning import SweepOptions, SweepSpace, tune
from ovseg_ray.tuning.ledger import Ledger
from ovseg_ray.tuning.population import PopulationSearch, turns
from ovseg_ray.tuning.search import Places
from ovseg_ray.tuning.space import Objective, Pbt
from ovseg_ray.tuning.trial import trial_config

MAX, MIN = Objective(metric="miou"), Objective(metric="loss", mode="min")


@pytest.fixture
def rules(space: SweepSpace) -> SweepSpace:
    """The space of these tests with exchanges each epoch."""
    return build(SweepSpace, {**space.model_dump(mode="json"), "scheduler": {"name": "pbt", "quantile": 0.4}})


@pytest.mark.parametrize(
    ("scores", "losers", "winners"),
    [
        ({0: 0.5, 1: 0.1, 2: 0.9, 3: 0.4}, {1}, {2}),
        ({0: 0.5, 1: 0.1, 2: 0.9, 3: 0.4, 4: 0.8, 5: 0.2, 6: 0.3, 7: 0.0}, {7, 1}, {2, 4}),
        ({0: 0.5, 1: 0.1, 2: 0.9}, {1}, {2}),
        ({4: 0.5}, set(), set()),
        ({2: 0.5, 1: 0.5}, {1}, {2}),
    ],
)
def test_the_worst_turn_to_the_best(scores: dict[int, float], losers: set[int], winners: set[int]) -> None:
    found = turns(scores, Pbt(name="pbt"), MAX, 0, 1.0)
    assert set(found) == losers
    assert {other for other, _ in found.values()} <= winners
    assert {factor for _, factor in found.values()} <= {0.8, 1.25}
    assert turns(dict(reversed(scores.items())), Pbt(name="pbt"), MAX, 0, 1.0) == found
    assert set(turns({n: -score for n, score in scores.items()}, Pbt(name="pbt"), MIN, 0, 1.0)) == losers
    many = [turns(scores, Pbt(name="pbt"), MAX, seed, 1.0) for seed in range(20)]
    assert not losers or len({str(found) for found in many}) > 1


class Driver:
    """A sweep of 5 trials of 4 epochs whose trainings are a line of a file; it can be killed between any two calls."""

    def __init__(self, path: Path, base: RunConfig, rules: SweepSpace) -> None:
        self.path, self.base, self.rules = path, base, rules
        self.legs: list[tuple[int, float | None]] = []
        self.study = optuna.create_study(direction="maximize")  # stands for the file, which every start finds again
        self.open()

    def run(self, number: int) -> RunDirectory:
        return RunDirectory(self.path / "trials" / f"{number:04d}")

    def open(self) -> None:
        self.ledger = Ledger(self.study, self.rules, 0, {"training.optimizer.lr": 0.03})
        rule = self.rules.scheduler
        assert isinstance(rule, Pbt)
        self.search = PopulationSearch(
            self.ledger, 5, Places(2, lambda: 2), self.run, lambda number: None, rule=rule, epochs=4.0, seed=0,
            configured=partial(trial_config, self.base, self.rules),
        )  # fmt: skip
        self.running: dict[str, dict[str, Any]] = {}

    def begin(self, name: str) -> Any:
        config = self.search.suggest(name)
        if isinstance(config, dict):
            self.running[name] = config
        return config

    def end(self, name: str, *, fails: int | None = None) -> None:
        """A stretch of training: its weights are the learning rates that it was trained with so far."""
        config = self.running.pop(name)
        number, until = config["number"], config["until"] or 4.0
        run = self.run(number)
        trained = trial_config(self.base, self.rules, config["values"])
        if not run.config_file.is_file():
            RunDirectory.create(run.path, trained.model_dump(mode="json"), resume=False)
        assert read_yaml(run.config_file) == json.loads(trained.model_dump_json())
        rates = [record["lr"] for record in read_metrics(run.metrics_file)[0]]
        for epoch in range(len(rates), int(until)):
            scale = [1.0, *(s for e, s in trained.training.schedule.scales if e <= epoch)][-1]
            rates.append(trained.training.optimizer.lr * scale)
            record = {"step": epoch + 1, "epoch": epoch + 1.0, "loss": 0.0, "seconds": 0.0, "lr": rates[-1]}
            append_metrics(run.metrics_file, record)
        checkpoint = run.checkpoints / checkpoint_name(int(until))
        for older in run.checkpoints.glob("step-*"):  # Ray Train keeps one
            (older / "weights").unlink()
            older.rmdir()
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights").write_text(json.dumps(rates))
        self.legs.append((number, config["until"]))
        score = -sum(abs(rate - 0.1) for rate in rates) - number * 1e-6
        if number == fails and until == 2.0:
            self.search.on_trial_complete(name, {"final": True, "failed": "broke"})
        elif config["until"]:
            self.search.on_trial_complete(name, {"final": True, "reached": until, "score": score})
        else:
            self.search.on_trial_complete(name, {"final": True, "values": [score]})


def finish(driver: Driver, order: int, kills: int = 0, fails: int | None = None) -> None:
    """Run a sweep to its end; stretches end in an order drawn from `order`, with kills between."""
    rng, name = random.Random(order), 0
    while True:
        if kills and rng.random() < 0.25:
            kills -= 1
            driver.open()
        name += 1
        found = driver.begin(f"t{name}")
        if found == Searcher.FINISHED:
            return
        if found is None:
            driver.end(rng.choice(sorted(driver.running)), fails=fails)


def told(driver: Driver) -> Any:
    members = [driver.ledger.member(number) for number in range(5)]
    outcomes = [driver.ledger.outcome(trial) for trial in driver.ledger.trials()]
    weights = [
        path.read_text() for path in sorted((driver.path / "trials").glob("*/checkpoints/step-00000004/weights"))
    ]
    return members, outcomes, weights


@pytest.mark.parametrize("fails", [None, 2])
def test_a_population_is_the_same_in_every_order_and_through_kills(
    make_base: MakeBase, rules: SweepSpace, tmp_path: Path, fails: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    drivers = []
    for order in range(4):
        (tmp_path / str(order)).mkdir()
        driver = Driver(tmp_path / str(order), make_base(), rules)
        finish(driver, order, kills=5 * (order > 1), fails=fails)
        drivers.append(driver)
    assert all(told(driver) == told(drivers[0]) for driver in drivers[1:])
    legs = drivers[0].legs
    assert len(set(legs)) == len(legs) == (20 if fails is None else 18)  # no stretch twice
    members, outcomes, weights = told(drivers[0])
    assert sum(len(member.turns) for member in members) == 6  # two of five, or of four, at three exchanges
    assert len(weights) == (5 if fails is None else 4)
    states = [outcome.state for outcome in outcomes]
    assert states == ["failed" if number == fails else "complete" for number in range(5)]
    # weights are those of a training from the beginning with the values and the schedule that are told
    ledger = drivers[0].ledger
    for number in range(5):
        if number == fails:
            continue
        training = trial_config(make_base(), rules, ledger.trained_values(number)).training
        scales = [[1.0, *(s for e, s in training.schedule.scales if e <= epoch)][-1] for epoch in range(4)]
        kept = drivers[0].run(number).checkpoints / checkpoint_name(4) / "weights"
        assert json.loads(kept.read_text()) == pytest.approx([training.optimizer.lr * scale for scale in scales])
    best = max(range(5), key=lambda number: outcomes[number].values[0] if outcomes[number].values else -9)
    assert ledger.study.user_attrs["exchanged"] == 3.0
    assert members[best].reached == 3.0


def test_a_kill_while_runs_are_copied(
    make_base: MakeBase, rules: SweepSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    straight = Driver(tmp_path / "a", make_base(), rules)
    finish(straight, 0)
    driver, copy = Driver(tmp_path / "b", make_base(), rules), population.take_over
    copied: list[Path] = []

    def killed(run: RunDirectory, donor: RunDirectory, config: RunConfig) -> None:
        copied.append(run.path)
        if len(copied) in (2, 4):
            raise KeyboardInterrupt
        copy(run, donor, config)

    monkeypatch.setattr(population, "take_over", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            finish(driver, 1)
        driver.open()
    finish(driver, 1)
    assert told(driver) == told(straight)
    assert len(set(driver.legs)) == len(driver.legs) == 20


def test_what_cannot_be_a_population_is_told(make_base: MakeBase, rules: SweepSpace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"interval = 1: no exchange takes place within training.epochs = 1"):
        tune(make_base(epochs=1), rules, tmp_path / "sweep", SweepOptions(4))
    with pytest.raises(UserError, match=r"training.steps = 9: the scheduler of .+ counts epochs; add --set training"):
        tune(make_base(steps=9), rules, tmp_path / "sweep", SweepOptions(4))
    with pytest.raises(UserError, match=r"training.schedule.scales: is what scheduler pbt finds"):
        tune(make_base(schedule={"scales": [[1, 0.5]]}), rules, tmp_path / "sweep", SweepOptions(4))
    epochs: Any = {"training.epochs": {"type": "int", "low": 2, "high": 4}}
    varied = build(SweepSpace, {**rules.model_dump(mode="json"), "space": epochs})
    with pytest.raises(UserError, match=r"'training.epochs': trials of a population"):
        tune(make_base(), varied, tmp_path / "sweep", SweepOptions(4))
    with pytest.raises(UserError, match="two trials or more"):
        tune(make_base(), rules, tmp_path / "sweep", SweepOptions(1))
    with pytest.raises(UserError, match="a learning rate is above 0"):
        build(SweepSpace, {**rules.model_dump(mode="json"), "scheduler": {"name": "pbt", "factors": [0.0]}})
