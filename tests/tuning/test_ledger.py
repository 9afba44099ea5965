"""The study as the record of a sweep: the same suggestions whatever the order of results, and through a kill."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import optuna
import pytest

from ovseg_ray.config import build
from ovseg_ray.errors import UserError
from ovseg_ray.tuning.ledger import Ledger, Outcome, best_first, open_study
from ovseg_ray.tuning.space import SweepSpace

SPACE: dict[str, Any] = {
    "startup_trials": 3,
    "space": {
        "lr": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
        "kind": {"type": "choice", "values": ["none", "deep", [1, 2]]},
        "depth": {"type": "int", "low": 1, "high": 4, "when": {"kind": ["deep"]}},
    },
}
FIRST = {"lr": 0.5, "kind": "none"}


def open_ledger(path: Path, seed: int = 0, lag: int = 4, **changes: Any) -> Ledger:
    space = build(SweepSpace, {**SPACE, **changes})
    ledger = Ledger(open_study(path / "study.db", "lseg", space), space, seed, FIRST)
    ledger.lag = lag
    return ledger


def sweep(
    path: Path, order: int, *, trials: int = 10, parallel: int = 2, seed: int = 0, kills: tuple[int, ...] = ()
) -> Any:
    """Suggestions of a sweep whose trials end in an order drawn from `order`."""
    rng, ledger = random.Random(order), open_ledger(path, seed)
    suggested: dict[int, dict[str, Any]] = {}
    running: list[int] = []
    while len(suggested) < trials or running:
        asked = ledger.ask() if len(running) < parallel and len(suggested) < trials else None
        if asked is not None:
            suggested[asked[0]] = asked[1]
            running.append(asked[0])
            continue
        number = running.pop(rng.randrange(len(running)))
        if number in kills:  # nothing but the file is left
            kills = tuple(kill for kill in kills if kill != number)
            ledger = open_ledger(path, seed)
            running = ledger.unfinished()
            assert {n: ledger.values(n) for n in running} == {n: suggested[n] for n in running}
            continue
        failed = number == 3
        score = abs(suggested[number]["lr"] - 0.1)
        ledger.report(number, 1.0, score)
        ledger.finish(number, Outcome("failed", reason="broke") if failed else Outcome("complete", (score,)))
    ledger.close()
    return suggested


def test_suggestions_do_not_depend_on_the_order_of_results(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("a", "b", "c", "d")]
    for place in places:
        place.mkdir()
    first = sweep(places[0], order=1)
    assert first[0] == FIRST
    assert sweep(places[1], order=2) == first
    assert sweep(places[2], order=3, kills=(2, 7)) == first
    assert sweep(places[3], order=1, seed=1) != first
    assert len({str(values) for values in first.values()}) == len(first)
    for values in first.values():
        assert ("depth" in values) == (values["kind"] == "deep")


def test_the_file_is_a_study_for_optuna(tmp_path: Path) -> None:
    suggested = sweep(tmp_path, order=1, trials=6)
    study = optuna.load_study(study_name="lseg", storage=f"sqlite:///{tmp_path / 'study.db'}")
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[3].user_attrs["outcome"]["reason"] == "broke"
    assert study.trials[1].params["lr"] == suggested[1]["lr"]
    assert study.trials[1].intermediate_values == {1000: study.trials[1].value}
    assert study.best_trial.number == best_first(study)[0].number


def test_nothing_is_asked_before_its_turn(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, lag=2)
    assert [ledger.ask()[0] for _ in range(3)] == [0, 1, 2]  # type: ignore[index]
    assert ledger.ask() is None
    ledger.finish(1, Outcome("complete", (1.0,)))
    assert ledger.ask() is None
    assert ledger.unfinished() == [0, 2]
    ledger.finish(0, Outcome("complete", (2.0,)))
    assert ledger.ask()[0] == 3  # type: ignore[index]
    # 1 has ended, yet trial 3 was asked for without it
    assert [trial.state.name for trial in ledger.trials()] == ["COMPLETE", "RUNNING", "RUNNING", "RUNNING"]


def test_a_kill_between_the_steps_of_asking_loses_no_number(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.study.enqueue_trial(FIRST)  # killed before it was asked for
    assert open_ledger(tmp_path).ask() == (0, FIRST)
    ledger.study.ask()  # killed before its values were drawn
    again = open_ledger(tmp_path)
    assert again.unfinished() == [0, 1]
    assert set(again.values(1)) >= {"lr", "kind"}
    assert again.values(1) == again.values(1)
    (tmp_path / "other").mkdir()
    straight = open_ledger(tmp_path / "other")
    straight.ask()
    assert straight.ask() == (1, again.values(1))


def test_curves_only_grow(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.ask()
    for epoch, value in ((1.0, 0.5), (2.0, 0.6), (1.0, 0.7), (3.0, float("nan"))):
        ledger.report(0, epoch, value)
    assert ledger.curve(0) == [(1.0, 0.5), (2.0, 0.6)]


def test_a_stopped_trial_is_not_complete(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.ask()
    ledger.report(0, 1.0, 0.25)
    ledger.finish(0, Outcome("stopped", seconds=3.0, epochs=1.5))
    ledger.close()
    (trial,) = ledger.study.trials
    assert (trial.state.name, trial.value) == ("PRUNED", 0.25)
    assert ledger.outcome(trial) == Outcome("stopped", seconds=3.0, epochs=1.5)
    assert best_first(ledger.study) == ()


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    objectives = [{"metric": "miou", "mode": "max"}, {"metric": "latency_ms", "mode": "min"}]
    ledger = open_ledger(tmp_path, objectives=objectives)
    for number, values in enumerate([(0.5, 10.0), (0.6, 30.0), (0.4, 20.0)]):
        ledger.ask()
        ledger.report(number, 1.0, values[0])
        ledger.finish(number, Outcome("complete", values))
    ledger.close()
    assert [trial.number for trial in best_first(ledger.study)] == [1, 0]
    assert ledger.curve(2) == [(1.0, 0.4)]


def test_a_file_that_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("not a database, and long enough to be told from an empty one" * 30)
    with pytest.raises(UserError, match=r"study.db: cannot be used as a study"):
        open_ledger(tmp_path)


def test_trial_0_keeps_what_lies_outside_the_space(tmp_path: Path) -> None:
    space = build(SweepSpace, SPACE)
    ledger = Ledger(open_study(tmp_path / "study.db", "lseg", space), space, 0, {"kind": "none"})
    ledger.lag = 2
    assert ledger.ask() == (0, {"kind": "none"})
    assert ledger.values(0) == {"kind": "none"}
    second = ledger.ask()
    assert second is not None
    assert {"lr", "kind"} <= set(second[1])
    ledger.finish(0, Outcome("complete", (0.5,)))
    ledger.finish(1, Outcome("complete", (0.4,)))
    assert ledger.ask() is not None  # the sampler copes with what it lacks
    assert ledger.values(0) == {"kind": "none"}
