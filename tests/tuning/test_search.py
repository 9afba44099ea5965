"""The study as Ray Tune's search algorithm, without Ray Tune."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ray.tune.search import Searcher

import ovseg_ray.tuning.search as search_module
from ovseg_ray.run_directory import RunDirectory
from ovseg_ray.training.metrics import append_metrics
from ovseg_ray.tuning.ledger import Ledger, open_study
from ovseg_ray.tuning.live import LiveTable
from ovseg_ray.tuning.search import DIED, Places, StudySearch
from ovseg_ray.tuning.space import SweepSpace
from ovseg_ray.tuning.trial import NoSuchObjectiveError, _objective


@pytest.fixture
def ledger(tmp_path: Path, space: SweepSpace) -> Ledger:
    return Ledger(open_study(tmp_path / "study.db", "colour", space), space, 0, {"training.optimizer.lr": 0.03})


def search_of(ledger: Ledger, path: Path, *, trials: int = 4, places: int = 2) -> tuple[StudySearch, list[int]]:
    ended: list[int] = []

    def run(number: int) -> RunDirectory:
        return RunDirectory(path / str(number))

    return StudySearch(ledger, trials, Places(places, lambda: 8), run, ended.append), ended


def test_trials_are_handed_out_as_places_come_free(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "AGAIN_S", ())
    search, ended = search_of(ledger, tmp_path)
    assert search.suggest("a") == {"number": 0, "values": {"training.optimizer.lr": 0.03}}
    assert search.suggest("b")["number"] == 1
    assert search.suggest("c") is None  # both places are taken
    search.on_trial_result("b", {"epoch": 1.0, "value": 0.25})
    search.on_trial_result("b", {"at": 1.5})
    append_metrics(tmp_path / "1" / "metrics.jsonl", {"step": 3, "epoch": 1.5, "loss": 0.1, "seconds": 7.0})
    search.on_trial_complete("b", {"epoch": 1.0, "value": 0.25, "done": True})  # without an end of its own: stopped
    search.on_trial_complete("a", {"final": True, "values": [0.5], "done": True})
    assert ended == [1, 0]
    assert [search.suggest(name)["number"] for name in "cd"] == [2, 3]
    search.on_trial_complete("c", {"final": True, "failed": "no masks"})
    search.on_trial_complete("d", None, error=True)
    assert search.suggest("e") == Searcher.FINISHED
    outcomes = [ledger.outcome(trial) for trial in ledger.trials()]
    assert [(o.state, o.values, o.reason) for o in outcomes if o] == [
        ("complete", (0.5,), ""), ("stopped", None, ""), ("failed", None, "no masks"), ("failed", None, DIED),
    ]  # fmt: skip
    assert (outcomes[1].epochs, outcomes[1].seconds) == (1.5, 7.0)  # type: ignore[union-attr]
    assert ledger.curve(1) == [(1.0, 0.25)]


def test_a_trial_whose_process_died_is_started_again_after_a_while(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "AGAIN_S", (0.1, 0.1))
    search, ended = search_of(ledger, tmp_path, trials=2)
    given = [search.suggest(name) for name in "ab"]
    search.on_trial_complete("b", {"final": True, "values": [0.5]})
    for name in "ac":
        search.on_trial_complete(name, None, error=True)
        assert search.suggest("x") is None  # not at once, and not the end
        time.sleep(0.11)
        assert search.suggest("c" if name == "a" else "d") == given[0]
    assert ended == [1]
    search.on_trial_complete("d", None, error=True)
    assert ended == [1, 0]
    assert search.suggest("e") == Searcher.FINISHED
    outcome = ledger.outcome(ledger.trials()[0])
    assert outcome is not None
    assert (outcome.state, outcome.reason) == ("failed", DIED)


def test_the_end_comes_only_after_the_last_trial(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "AGAIN_S", (0.0,))
    search, _ = search_of(ledger, tmp_path, trials=2)
    given = [search.suggest(name) for name in "ab"]
    search.on_trial_complete("b", {"final": True, "values": [0.5]})
    assert search.suggest("x") is None  # Ray Tune never asks again after the end, and the first may yet die
    search.on_trial_complete("a", None, error=True)
    assert search.suggest("c") == given[0]
    search.on_trial_complete("c", {"final": True, "values": [0.5]})
    assert search.suggest("d") == Searcher.FINISHED


def test_what_all_trials_would_fail_of_ends_the_sweep(ledger: Ledger, tmp_path: Path) -> None:
    search, ended = search_of(ledger, tmp_path, trials=20)
    for name in "ab":
        search.suggest(name)
    search.on_trial_complete("a", {"final": True, "failed": "objective 'mIoU': validation has miou", "hopeless": True})
    assert search.suggest("c") is None  # one still runs
    search.on_trial_complete("b", {"final": True, "failed": "objective 'mIoU': validation has miou", "hopeless": True})
    assert search.suggest("c") == Searcher.FINISHED
    assert ended == [0, 1]


def test_a_metric_that_validation_lacks_is_hopeless(tmp_path: Path) -> None:
    with pytest.raises(NoSuchObjectiveError, match="objective 'mIoU': validation has miou; name one of them"):
        _objective("mIoU", {"miou": 0.5}, RunDirectory(tmp_path))


def test_what_another_start_left_comes_first(ledger: Ledger, tmp_path: Path) -> None:
    before, _ = search_of(ledger, tmp_path)
    given = [before.suggest(name) for name in "ab"]
    before.on_trial_complete("a", {"final": True, "values": [0.5]})
    after, _ = search_of(ledger, tmp_path)
    assert after.suggest("x") == given[1]
    assert after.suggest("y")["number"] == 2


def test_more_places_as_nodes_join() -> None:
    nodes = [1]
    places = Places(None, lambda: nodes[0], every=0.05)
    assert places() == 1
    nodes[0] = 3
    assert places() == 1  # not asked again at once
    time.sleep(0.06)
    assert places() == 3
    nodes[0] = 0
    time.sleep(0.06)
    assert places() == 1  # a trial waits for a node rather than nothing
    few = Places(5, lambda: 2)
    assert (few(), few.wanted) == (2, 5)
    assert Places(1, lambda: 4)() == 1


def test_a_log_has_a_line_for_each_trial(ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search, _ = search_of(ledger, tmp_path)
    with LiveTable(ledger, 4) as table:
        for name in "ab":
            search.suggest(name)
        table.progressed(1, 0.5)
        search.on_trial_complete("a", {"final": True, "values": [0.5]})
        table.ended(0)
        rows = table.table()
        search.on_trial_complete("b", {"final": True, "failed": "no masks"})
        table.ended(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("tune: trial 0 miou 0.5; 1/4 trials, best miou 0.5, ETA ")
    assert lines[1].startswith("tune: trial 1 failed: no masks; 2/4 trials")
    assert [str(column.header) for column in rows.columns] == ["trial", "state", "epoch", "miou", "lr"]
    assert [list(column.cells)[:2] for column in rows.columns][:4] == [
        ["1", "0"],
        ["runs", "done"],
        ["0.5", "0"],
        ["", "0.5"],
    ]
