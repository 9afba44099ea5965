"""A sweep on a cluster whose nodes come and go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from trials import MakeBase, quick_trial, ran

import ovseg_ray.tuning.sweep as sweep_module
from ovseg_ray.tuning import SweepOptions, SweepSpace, tune
from ovseg_ray.tuning.ledger import Ledger

PATIENCE_S = 90


def wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive() -> int:
    return sum(node["Alive"] for node in ray.nodes())


@pytest.fixture
def cluster(ray_cluster: None) -> Iterator[Cluster]:
    """The cluster of the tests, for nodes to join."""
    cluster = Cluster()
    cluster.head_node = ray._private.worker._global_node
    cluster.redis_address = None
    yield cluster
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node, allow_graceful=False)


def join(cluster: Cluster) -> None:
    """A node of one CPU, the only kind that trials of these tests run on."""
    before = alive()
    cluster.add_node(wait=False, num_cpus=1, resources={"spot": 1.0})
    wait(lambda: alive() == before + 1)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_trials_of_a_node_that_dies_go_on_elsewhere(
    make_base: MakeBase, space: SweepSpace, tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "run_trial", quick_trial)
    monkeypatch.setattr(sweep_module, "WATCHER", {"spot": 0.01})
    _, places = sweep_module._shares(SweepOptions())
    alone = places()
    join(cluster)
    assert places() > alone  # the number of trials at once follows the cluster
    out, ledgers = tmp_path / "sweep", []

    held = tmp_path / "held"
    held.touch()

    def sweep() -> None:
        base = make_base(model={"flag": str(held)})
        ledgers.append(tune(base, space, out, SweepOptions(4, parallel=2)))

    # nodes are the main thread's, which alone may handle signals
    thread = threading.Thread(target=sweep, daemon=True)
    thread.start()
    wait(lambda: (out / "ran").is_dir() and {"0-2", "1-2"} <= set(ran(out)))
    (node,) = cluster.worker_nodes
    cluster.remove_node(node, allow_graceful=False)
    held.unlink()
    join(cluster)
    thread.join(PATIENCE_S)
    (ledger,) = ledgers
    assert isinstance(ledger, Ledger)
    assert [trial.state.name for trial in ledger.trials()] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert ledger.outcome(ledger.trials()[1]).reason == "step 3: the loss is not finite"  # type: ignore[union-attr]
    assert set(ran(out).values()) == {1}
    assert len(ran(out)) == 16
