"""The endpoint's life as its users see it, with the real commands: seconds, and what was lost.

    python benchmarks/serving_lifecycle.py [zero] [signals] [deploy] [--haproxy] [--out FILE]

zero: `ovseg-ray serve --min-replicas 0`: the first answer, the time until no replica is left, the answer after that.
signals: SIGHUP to `ovseg-ray serve` under load (another version, then a mistake), SIGTERM with a request under way.
deploy: the shipped cluster/serve.yaml, filled in, with `serve deploy` on a Ray cluster of its own with Ray's and the
endpoint's tokens on; then deployed again with another version under load.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from serving_load import WORDS, free_port, make_model, picture, replicas, server, write

from ovseg_ray.client import Client, EndpointError

MARK = "OVSEG_LIFECYCLE"
LABELS = WORDS[:20]
SHIPPED = Path(__file__).parents[1] / "cluster" / "serve.yaml"


class Asker(threading.Thread):
    """Asks without pause; knows which version answered when, and what got lost."""

    def __init__(self, url: str, token: str | None = None) -> None:
        super().__init__()
        self.answers: list[tuple[float, str]] = []
        self.lost: list[str] = []
        self._stop_asking = threading.Event()
        self._url, self._token = url, token

    def run(self) -> None:
        with Client(self._url, token=self._token) as client:
            while not self._stop_asking.is_set():
                try:
                    version = client.segment(picture(96), LABELS).version
                    self.answers.append((time.monotonic(), version))
                except EndpointError as error:
                    self.lost.append(str(error))

    def __enter__(self) -> Asker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asking.set()
        self.join()


def until(true: Callable[[], bool], seconds: float, what: str) -> float:
    """Seconds until something is true."""
    begun = time.monotonic()
    while not true():
        if time.monotonic() - begun > seconds:
            raise SystemExit(f"{what}: not within {seconds} s")
        time.sleep(0.1)
    return round(time.monotonic() - begun, 2)


def asked(client: Client) -> float:
    """Seconds of one request."""
    begun = time.monotonic()
    client.segment(picture(96), LABELS)
    return round(time.monotonic() - begun, 2)


def ready(url: str) -> bool:
    with Client(url) as client:
        return client.ready()


@contextlib.contextmanager
def command(directory: Path, *words: str) -> Iterator[tuple[str, subprocess.Popen[bytes], Path]]:
    """`ovseg-ray serve` as a process: its address, itself, its log."""
    port, log = free_port(), directory / f"{words[-1].strip('-')}.log"
    with server(["-m", "ovseg_ray.cli", "serve", "--port", str(port), *words], port, log, ready=False) as process:
        until(lambda: b"serving at" in log.read_bytes(), 120, "ovseg-ray serve")
        yield f"http://127.0.0.1:{port}", process, log


def zero(directory: Path, haproxy: list[str]) -> dict[str, Any]:
    model = make_model(directory / "zero", "small")
    with command(directory, str(model), "--min-replicas", "0", "--max-replicas", "1", *haproxy) as (url, _, _):
        at_start = len(replicas(MARK))
        with Client(url) as client:
            found = {"replicas_at_start": at_start, "first_answer_s": asked(client), "next_answer_s": asked(client)}
            found["until_none_s"] = until(lambda: not replicas(MARK), 300, "scaling to zero")
            time.sleep(2)
            return {**found, "answer_from_zero_s": asked(client), "next_from_zero_s": asked(client)}


def signals(directory: Path, haproxy: list[str]) -> dict[str, Any]:
    models = [make_model(directory / name, "small", seed) for seed, name in enumerate("ab")]
    config = directory / "serving.yaml"

    def configure(model: Path) -> None:
        config.write_text(f"models:\n- {{run: {model}, name: lseg}}\n")

    configure(models[0])
    found: dict[str, Any] = {}
    with command(directory, "--config", str(config), *haproxy) as (url, process, log):
        before = replicas(MARK)
        with Asker(url) as asker:
            time.sleep(5)
            configure(models[1])
            sent, old = time.monotonic(), asker.answers[-1][1]
            process.send_signal(signal.SIGHUP)
            until(lambda: asker.answers[-1][1] != old, 60, "the other version")
            found["swap_s"] = round(next(at for at, version in asker.answers if version != old) - sent, 2)
            new = asker.answers[-1][1]
            configure(directory / "nowhere")
            process.send_signal(signal.SIGHUP)
            until(lambda: b"no such run" in log.read_bytes(), 30, "the mistake told")
            time.sleep(2)
            found["version_kept_after_mistake"] = asker.answers[-1][1] == new
        found |= {"answered": len(asker.answers), "lost": asker.lost, "same_process": replicas(MARK) == before}
        # a large picture takes seconds: it is under way when the end is asked for
        results: list[Any] = []
        large = threading.Thread(target=lambda: results.append(_large(url)))
        large.start()
        time.sleep(1.5)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        large.join()
        found["under_way_at_the_end"] = results[0]
        process.wait(90)
        found |= {"end_s": round(time.monotonic() - begun, 2), "exit_code": process.returncode}
        time.sleep(1)
        found["replicas_left"] = len(replicas(MARK))
        found["log"] = log.read_text(errors="replace").splitlines()[-12:]
    return found


def _large(url: str) -> str:
    try:
        with Client(url, retries=0) as client:
            return f"answered, {client.segment(picture(1408), LABELS, top_k=1).image.width} pixels wide"
    except EndpointError as error:
        return f"lost: {error}"


def deploy(directory: Path, _: list[str]) -> dict[str, Any]:
    models = [make_model(directory / name, "small", seed) for seed, name in enumerate("cd")]
    port, gcs, dashboard, clients = (free_port() for _ in range(4))
    secret = secrets.token_urlsafe(16)
    content = yaml.safe_load(SHIPPED.read_text())
    application = content["applications"][0]
    # what one fills in: where it listens, what a replica gets of this machine, the run, who may ask
    content["http_options"] |= {"host": "127.0.0.1", "port": port}
    application["args"] |= {"num_cpus": 1, "num_gpus": 0}
    serving = application["deployments"][0]["user_config"]
    serving["tokens"] = [f"somebody:{hashlib.sha256(secret.encode()).hexdigest()}"]
    file = directory / "serve.yaml"

    def put(model: Path) -> float:
        serving["models"][0]["run"] = str(model)
        file.write_text(yaml.safe_dump(content))
        begun = time.monotonic()
        serve = str(Path(sys.executable).with_name("serve"))
        subprocess.run([serve, "deploy", str(file)], check=True, capture_output=True, timeout=120)
        return round(time.monotonic() - begun, 2)

    os.environ |= {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{dashboard}", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }  # fmt: skip
    ray = str(Path(sys.executable).with_name("ray"))
    words = [
        "start", "--head", "--block", "--num-cpus=4", "--node-ip-address=127.0.0.1", f"--port={gcs}",
        f"--dashboard-port={dashboard}", f"--ray-client-server-port={clients}", f"--temp-dir={directory}/ray",
        "--disable-usage-stats",
    ]  # fmt: skip
    with (directory / "ray.log").open("wb") as log:
        head = subprocess.Popen([ray, *words], stdout=log, stderr=log, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: _answers(dashboard), 60, "ray start")
        found: dict[str, Any] = {"deploy_command_s": put(models[0])}
        found["until_ready_s"] = until(lambda: ready(url), 120, "serve deploy")
        with Client(url) as client, contextlib.suppress(EndpointError):
            client.models()
            raise SystemExit("answered without a token")
        with Client(url, token=secret) as client:
            old = client.segment(picture(96), LABELS).version
        before = replicas(MARK)
        with Asker(url, secret) as asker:
            time.sleep(3)
            sent = time.monotonic()
            put(models[1])
            until(lambda: bool(asker.answers) and asker.answers[-1][1] != old, 60, "the other version")
            found["swap_s"] = round(next(at for at, version in asker.answers if version != old) - sent, 2)
            time.sleep(2)
        return {
            **found, "answered": len(asker.answers), "lost": asker.lost, "same_process": replicas(MARK) == before,
        }  # fmt: skip
    finally:
        # Ray's processes are its children: SIGTERM ends them with it
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)


def _answers(port: int) -> bool:
    import socket

    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"zero": zero, "signals": signals, "deploy": deploy}
    parser.add_argument("parts", nargs="*", help="default: all of them")
    parser.add_argument("--haproxy", action="store_true")
    parser.add_argument("--out", type=Path, help="results as JSON")
    arguments = parser.parse_args()
    os.environ[MARK] = "1"  # inherited, so that its processes can be told from others
    found = {}
    for name in arguments.parts or parts:
        with tempfile.TemporaryDirectory() as directory:
            found[name] = parts[name](Path(directory), ["--haproxy"] if arguments.haproxy else [])
        print(name, found[name], flush=True)
    write(arguments.out, found)


if __name__ == "__main__":
    main()
