"""Where a request's time goes within the endpoint's engine, beside the same model's bare forward pass; no HTTP.

    python benchmarks/serving_parts.py RUN [--side 480]

One picture of colour areas, all labels that the run was trained on; engine and bare loop take turns in one process.
Prints medians in milliseconds: `request`; `network`, what of it the model computes; `image`, decoding and preparation;
`segments`, masks as COCO RLE; `forward`, the bare loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving_load import picture
from serving_throughput import Bare

import ovseg_ray.serving.answers as answers
from ovseg_ray.cluster import KEEP_MEMORY
from ovseg_ray.config import build
from ovseg_ray.serving.api import Parameters
from ovseg_ray.serving.config import ServingConfig
from ovseg_ray.serving.engine import Engine

TURNS, REPEATS = 5, 6


def timed(function: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
    """The same function; the milliseconds of each call are put to `times`."""

    def run(*args: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        result = function(*args, **options)
        times.append(1000 * (time.perf_counter() - begun))
        return result

    return run


async def measure(run: Path, side: int) -> dict[str, float]:
    """Median milliseconds of each part."""
    engine = Engine()
    engine.load(build(ServingConfig, {"models": [{"run": str(run)}]}, "models"))
    method, data = next(iter(engine.models)).method, picture(side)
    labels = method.label_sets[0].names
    times: dict[str, list[float]] = {
        name: [] for name in ("request", "encode", "label", "image", "segments", "forward")
    }
    method.encode = timed(method.encode, times["encode"])  # type: ignore[method-assign]
    method.segment = timed(method.segment, times["label"])  # type: ignore[method-assign]
    answers.segments = timed(answers.segments, times["segments"])
    forward = timed(Bare(run, data, ", ".join(labels)).forward(1), times["forward"])
    for _ in range(TURNS):
        await engine.segment(data, None, Parameters(candidate_labels=list(labels)))
        forward()
        for name in times:
            del times[name][len(times[name]) - (len(times[name]) % REPEATS) :]  # the first of a turn is cold
        for _ in range(REPEATS):
            begun = time.perf_counter()
            answer = await engine.segment(data, None, Parameters(candidate_labels=list(labels)))
            times["request"].append(1000 * (time.perf_counter() - begun))
            times["image"].append(answer.response.timings.image - times["encode"][-1])
        for _ in range(REPEATS):
            forward()
    found = {name: statistics.median(values) for name, values in times.items()}
    network = found.pop("encode") + found.pop("label")
    return {name: round(value, 1) for name, value in {**found, "network": network}.items()}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--side", type=int, default=480)
    given = parser.parse_args()
    if not KEEP_MEMORY.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    print(json.dumps(asyncio.run(measure(given.run, given.side))))


if __name__ == "__main__":
    main()
