"""An embedding whose actors are killed, then whose second node dies: run by test_job, in a process of its own.

    python losses_run.py IMAGES STORE

Prints a JSON line: which processes were killed, and how many parts there were at that time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from ovseg_ray.cluster import connect
from ovseg_ray.data import open_dataset
from ovseg_ray.embedding import EmbedConfig, embed, job

CONFIG = EmbedConfig.model_validate({"squares": {"size": 32}, "encoder": {"stride": 8}})
PARTS_BEFORE_KILL, PARTS_BEFORE_LOSS = 3, 12


def actors() -> list[int]:
    """Processes of this cluster that hold the backbone."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def wait_for(parts: int, out: Path, thread: threading.Thread) -> int:
    """Until there are so many parts, or the job has ended."""
    while thread.is_alive() and (known := len(list(out.glob("parts/*.parquet")))) < parts:
        time.sleep(0.002)
    return known


def main() -> None:
    """Run it."""
    from ray.cluster_utils import Cluster

    images, out = Path(sys.argv[1]), Path(sys.argv[2])
    job.MOST_PART_IMAGES = 4
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    second = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    said: dict[str, object] = {}
    with connect(cluster.address):
        thread = threading.Thread(target=lambda: embed(open_dataset(images), out, CONFIG, workers=2))
        thread.start()
        said["parts_at_kill"] = wait_for(PARTS_BEFORE_KILL, out, thread)
        said["killed"] = actors()
        for process in actors():
            os.kill(process, signal.SIGKILL)
        said["parts_at_loss"] = wait_for(PARTS_BEFORE_LOSS, out, thread)
        cluster.remove_node(second, allow_graceful=False)
        thread.join()
    cluster.shutdown()
    print(json.dumps(said))


if __name__ == "__main__":
    main()
