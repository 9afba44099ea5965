"""Fitting the temperature on cached scores against running the network again for every value.

    python benchmarks/cached_fit.py RUN --data WORLD --values 40

Both ways give the negative log likelihood of the same pixels at the same temperatures; the largest difference is
printed beside the times. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from ovseg_ray.data import open_dataset
from ovseg_ray.evaluation.evaluate import default_spaces
from ovseg_ray.segmenter import Segmenter
from ovseg_ray.training.validation import spread
from ovseg_ray.tuning.fit import cache_scores, calibration


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--values", type=int, default=40)
    parser.add_argument("--pixels", type=int, default=100_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    dataset = open_dataset(given.data, given.split)
    rows = spread(len(dataset), given.images)
    segmenter = Segmenter.load(given.run, "cpu")
    space = default_spaces(segmenter, dataset)[0]
    factors = np.geomspace(0.2, 5.0, given.values)
    cache_scores(segmenter.method, dataset, rows[:2], space)  # warm

    started = time.perf_counter()
    again = []
    for factor in factors:
        segmenter.method.scale_temperature(factor)
        again.append(calibration(cache_scores(segmenter.method, dataset, rows, space, pixels=given.pixels)))
        segmenter.method.scale_temperature(1 / factor)
    brute = time.perf_counter() - started

    started = time.perf_counter()
    cached = cache_scores(segmenter.method, dataset, rows, space, pixels=given.pixels)
    once = time.perf_counter() - started
    found = [calibration(cached, factor) for factor in factors]
    whole = time.perf_counter() - started
    result = {
        "images": len(rows),
        "pixels": len(cached.truth),
        "values": given.values,
        "seconds_running_again": round(brute, 2),
        "seconds_cached": round(whole, 2),
        "ratio": round(brute / whole, 1),
        "ratio_of_one_more_value": round((brute / given.values) / ((whole - once) / given.values), 1),
        "largest_difference_nll": max(abs(a.nll - b.nll) for a, b in zip(again, found, strict=True)),
        "same_best_value": int(np.argmin([a.nll for a in again])) == int(np.argmin([b.nll for b in found])),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
