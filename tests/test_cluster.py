from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ovseg_ray.cli import main
from ovseg_ray.cluster import WorkerResources, connect, share_cpus, worker_resources
from ovseg_ray.errors import UserError


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus"),
    [
        ([8], 1, 7),  # one is kept for the validation task
        ([8], 2, 3),
        ([8], 7, 1),
        ([8], 8, 1),  # it has to wait then
        ([8, 8], 2, 7),  # 8 each would leave none for it
        ([8, 8], 3, 4),
        ([16, 4], 2, 8),
        ([1], 4, 1),
        ([0], 2, 1),
        ([], 2, 1),
    ],
)
def test_cpus_are_shared(nodes: list[int], workers: int, cpus: int) -> None:
    assert share_cpus(nodes, workers) == cpus


def node(**resources: float) -> dict:
    return {"Alive": True, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ([node(CPU=4)], 1, (2, 0.0)),  # Ray was told of 4, the machine has 2
        ([node(CPU=4)], 2, (1, 0.0)),
        ([node(CPU=4)], 3, (1, 0.0)),
        ([node(CPU=4, GPU=2)], 2, (1, 1.0)),
        ([node(CPU=8), node(CPU=8), {"Alive": False, "Resources": {"CPU": 64}}], 3, (4, 0.0)),
        ([node(CPU=0), node(CPU=8, GPU=1)], 4, (1, 1.0)),  # a cluster that may grow
    ],
)
def test_what_a_worker_gets(
    monkeypatch: pytest.MonkeyPatch, nodes: list[dict], workers: int, expected: tuple[int, float]
) -> None:
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert worker_resources(workers) == WorkerResources(*expected)


@pytest.mark.parametrize(
    ("resources", "workers", "text"),
    [({"CPU": 4}, 4, "use at most 3"), ({"CPU": 16, "GPU": 2}, 3, "has 2 GPUs; use --workers 2")],
)
def test_more_workers_than_this_machine_holds(
    monkeypatch: pytest.MonkeyPatch, resources: dict, workers: int, text: str
) -> None:
    monkeypatch.setattr("ray.nodes", lambda: [node(**resources)])
    with pytest.raises(UserError, match=text):
        worker_resources(workers)


def test_a_start_that_fails_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_slow(**options: object) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen because …")

    monkeypatch.setattr("ray.init", too_slow)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r"did not start on this machine \(The current .+ try again later"), connect():
        pass
    assert capsys.readouterr().err == "starting Ray on this machine\n"


@pytest.mark.ray
def test_an_address_of_another_cluster_is_not_passed_over(ray_cluster: None) -> None:
    import ray

    with connect(ray.get_runtime_context().gcs_address), connect("auto"), connect():
        assert ray.is_initialized()
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UserError, match=r"is connected to .* already"), connect(address):
            pass
    assert ray.is_initialized()


@pytest.mark.parametrize(("token", "mode", "wanted"), [(True, None, "token"), (False, None, None), (True, "x", "x")])
def test_an_address_is_sent_the_users_token(
    token: bool, mode: str | None, wanted: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.setenv("RAY_AUTH_MODE", mode or "")
    if mode is None:
        monkeypatch.delenv("RAY_AUTH_MODE")
    if token:
        file.write_text("secret")
    assert main(["neighbours", "query", str(tmp_path / "none"), "1", "--address", "127.0.0.1:1"]) == 2
    assert os.environ.get("RAY_AUTH_MODE") == wanted
