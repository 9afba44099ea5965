"""What is saved by what the endpoint keeps: an uploaded picture against a fresh one, 1,000 labels against 20.

    python benchmarks/serving_reuse.py [--encoder vit_base_patch16_384] [--side 480] [--repeats 7]

In this process, through the application, without Ray; medians of turns. All labels are warm.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from serving_load import WORDS, make_model, picture, write
from starlette.testclient import TestClient

from ovseg_ray.cluster import KEEP_MEMORY
from ovseg_ray.serving.app import create_app
from ovseg_ray.serving.config import ServingConfig
from ovseg_ray.serving.engine import Engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="vit_base_patch16_384")
    parser.add_argument("--side", type=int, default=480)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="results as JSON")
    arguments = parser.parse_args()
    if not KEEP_MEMORY.keys() <= os.environ.keys():  # what replicas have; read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    body = picture(arguments.side)
    with tempfile.TemporaryDirectory() as directory:
        engine = Engine()
        run = str(make_model(Path(directory) / "lseg", arguments.encoder))
        engine.load(ServingConfig.model_validate({"models": [{"run": run, "device": "cpu"}]}))
        with TestClient(create_app(engine)) as client:
            key = client.post("/v1/images", content=body).json()["id"]

            def once(labels: int, content: bytes | None) -> float:
                query = {"candidate_labels": ",".join(WORDS[:labels]), "top_k": "20"}
                if content is None:
                    query["image_id"] = key
                started = time.perf_counter()
                answer = client.post("/v1/segment", params=query, content=content)
                taken = 1000 * (time.perf_counter() - started)
                assert answer.status_code == 200, answer.text
                return taken

            kinds = [(20, body), (20, None), (1000, body), (1000, None)]
            # in turns, so that all see the same machine; the first warms up
            turns = [[once(*kind) for kind in kinds] for _ in range(arguments.repeats + 1)][1:]
    fresh, again, many, many_again = (statistics.median(column) for column in zip(*turns, strict=True))
    print(f"20 labels: fresh {fresh:.1f} ms, uploaded {again:.1f} ms: {fresh / again:.1f} times as fast")
    print(f"1,000 labels: fresh {many:.1f} ms, uploaded {many_again:.1f} ms: {many / many_again:.1f} times as fast")
    print(f"1,000 labels against 20, fresh: {many / fresh:.2f} times; uploaded: {many_again / again:.2f} times")
    found = {"fresh_ms": fresh, "uploaded_ms": again, "fresh_1000_ms": many, "uploaded_1000_ms": many_again}
    write(arguments.out, {"encoder": arguments.encoder, "side": arguments.side, **found})


if __name__ == "__main__":
    main()
