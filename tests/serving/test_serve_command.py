"""`ovseg-ray serve` as a process: HAProxy in front, replicas that come with the load, signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from serving_tools import encoded, free_port, make_run, picture

from ovseg_ray.errors import UserError
from ovseg_ray.serving.config import ServingConfig
from ovseg_ray.serving.local import HAPROXY_PORTS, serve_here
from ovseg_ray.serving.resources import local_scaling

ASK = {"candidate_labels": "sky, grass, a red car"}
DATA = encoded(picture(256, 256))
CLIENTS = 24


def taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(done: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.5)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def replicas(url: str) -> set[str]:
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return {line.split('replica="')[1].split('"')[0] for line in lines if "replica=" in line}


def asked(url: str) -> str:
    """The model that answers."""
    return str(httpx.post(f"{url}/v1/segment", params=ASK, content=DATA, timeout=60).json()["model"])


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[bytes], Path, Path]]:
    """Address, process, log and configuration."""
    if busy := [port for port in HAPROXY_PORTS if taken(port)]:
        pytest.skip(f"HAProxy's own port {busy[0]} is taken on this machine")
    folder = tmp_path_factory.mktemp("serve")
    run, log, config = make_run(folder / "lseg"), folder / "log", folder / "serve.yaml"
    config.write_text(f"models: [{{run: {run}, name: first, device: cpu}}]\n")
    port = free_port()
    words = ["serve", "--config", str(config), "--port", str(port), "--haproxy", "--max-replicas", "2"]
    code = "import sys; from ovseg_ray.cli import main; sys.exit(main(sys.argv[1:]))"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", code, *words], stderr=file, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is not None or ready(url), 240, "an answer")
        yield url, process, log, config
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_port_that_haproxy_needs_is_told_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovseg_ray.serving.local.connect", None)
    config = ServingConfig.model_validate({"models": [{"run": str(make_run(tmp_path / "lseg"))}]})
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr("ovseg_ray.serving.local.HAPROXY_PORTS", (port,))
        with pytest.raises(UserError, match=f"--haproxy: its port {port}: cannot be listened on .*; another 'serve"):
            serve_here(lambda: config, local_scaling(1, 1), port=free_port(), haproxy=True)


@pytest.mark.ray
@pytest.mark.slow
def test_a_second_replica_comes_with_the_load(endpoint: tuple[str, subprocess.Popen[bytes], Path, Path]) -> None:
    url, stop, wrong = endpoint[0], threading.Event(), []

    def ask() -> None:
        with httpx.Client(timeout=120) as client:
            while not stop.is_set():
                answer = client.post(f"{url}/v1/segment", params=ASK, content=DATA)
                if answer.status_code not in (200, 429, 503):
                    wrong.append(answer.text)

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    assert len(replicas(url)) == 1
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(replicas(url)) == 2, 180, "a second replica")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[0]


@pytest.mark.ray
@pytest.mark.slow
def test_sighup_serves_what_the_file_says_then_and_sigterm_ends_it(
    endpoint: tuple[str, subprocess.Popen[bytes], Path, Path],
) -> None:
    url, process, log, config = endpoint
    config.write_text("models: [{run: /nowhere}]\n")
    process.send_signal(signal.SIGHUP)
    until(lambda: "error: /nowhere" in log.read_text(), 60, "the mistake is told")
    assert asked(url) == "first", "it changed nothing"
    run = make_run(config.parent / "other", seed=3)
    config.write_text(f"models: [{{run: {run}, name: second, device: cpu}}]\n")
    process.send_signal(signal.SIGHUP)
    until(lambda: all(asked(url) == "second" for _ in range(8)), 120, "the new model, whichever replica answers")

    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    assert "stopping; what was begun is finished" in log.read_text()
    assert not taken(int(url.rpartition(":")[2]))
