"""A training on a cluster that gains a node and loses it again; run by test_elastic.py in a process of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from ovseg_ray.methods import registry
from ovseg_ray.training import RunConfig, train
from ovseg_ray.training.metrics import read_metrics

PATIENCE_S = 150


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def steps(run: Path) -> int:
    records = read_metrics(run / "metrics.jsonl")[0] if (run / "metrics.jsonl").is_file() else []
    return max((record["step"] for record in records), default=0)


def world_sizes(flags: Path) -> list[int]:
    """Of every start of the workers, oldest first."""
    return [int(path.name.split("-")[1]) for path in sorted(flags.iterdir())]


def wait(what: str, done: Any) -> None:
    started = time.monotonic()
    while not done():
        if time.monotonic() - started > PATIENCE_S:
            raise TimeoutError(what)
        time.sleep(0.3)


def come_and_go(cluster: Cluster, run: Path, flags: Path, hurry: Path, trouble: list[str]) -> None:
    try:
        wait("a start with one worker", lambda: steps(run) >= 3 and world_sizes(flags)[-1:] == [1])
        node = cluster.add_node(num_cpus=1)
        wait("a second worker", lambda: world_sizes(flags)[-1] == 2)
        at = steps(run)
        wait("steps with two", lambda: steps(run) >= at + 3)
        why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        drain = ["drain-node", "--address", cluster.address, "--node-id", node.node_id, *why]
        drain += ["--deadline-remaining-seconds", "10"]
        subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *drain], check=True, capture_output=True)
        wait("one worker again", lambda: world_sizes(flags)[-1] == 1)
        hurry.touch()  # nothing is left to wait for but the end
        cluster.remove_node(node)
    except Exception as error:
        trouble.append(repr(error))


def run_training(config: str, out: Path, trouble: list[str]) -> None:
    try:
        train(RunConfig.model_validate(json.loads(config)), out, workers=(1, 2))
    except Exception as error:
        trouble.append(repr(error))


def main(config: str, out: str, flags: str, hurry: str) -> None:
    sys.modules["ovseg_ray.training.train"].RESIZE_INTERVAL_S = 2.0  # type: ignore[attr-defined]
    registry._METHODS["colour"] = "colour_training:ColourTraining"
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": free_port()}  # others may have Ray's usual one
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    trouble: list[str] = []
    # nodes are added by the main thread, which alone may handle signals
    thread = threading.Thread(target=run_training, args=(config, Path(out), trouble))
    thread.start()
    come_and_go(cluster, Path(out), Path(flags), Path(hurry), trouble)
    thread.join()
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps({"trouble": trouble, "world_sizes": world_sizes(Path(flags))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
