"""Fitting what matters at inference alone on cached output against running the network again for every value.

    python benchmarks/cached_fit.py LSEG_RUN --data WORLD --values 40
    python benchmarks/cached_fit.py STEGO_RUN --data WORLD --values 20 --crf-images 8

Of a run that answers labels: temperature and threshold. Of a run whose clusters have no names: their number, and the
weights of the CRF. Both ways score the same pixels with the same values. Beside the times stand the largest difference
of any number of any value, whether the best value is the same, and how far it is before the next one: 0 would mean that
several are best. Seconds are those of the CPU, on one thread. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovseg_ray.data import open_dataset
from ovseg_ray.data.dataset import DataSet
from ovseg_ray.evaluation.evaluate import default_spaces
from ovseg_ray.evaluation.evaluate_clusters import evaluation_squares
from ovseg_ray.methods.base import Method
from ovseg_ray.methods.export import load_model
from ovseg_ray.methods.stego import Stego
from ovseg_ray.segmenter import Segmenter, find_model
from ovseg_ray.training.validation import spread
from ovseg_ray.tuning.calibrate import CONFIDENCES
from ovseg_ray.tuning.fit import CachedScores, cache_scores, calibration, thresholds
from ovseg_ray.tuning.fit_clusters import cache_codes, try_clusters, try_crf, weights_around


def compared(
    values: Sequence[Any],
    cache: Callable[[], Any],
    fit: Callable[[Any, Sequence[Any]], Sequence[Sequence[float]]],
    again: Callable[[Any], Any],
    *,
    tell: Callable[[np.ndarray], np.ndarray] = lambda numbers: numbers,
) -> dict[str, Any]:
    """Times, and how equal both ways are.

    Args:
        values: to try.
        cache: runs the network once, for all values.
        fit: a row of numbers for each of some values, from what `cache` or `again` returned.
        again: runs the network for one value.
        tell: what to make large, one number for each value or more, of all rows.
    """
    started = time.process_time()
    brute = np.array([fit(again(value), [value])[0] for value in values])
    middle = time.process_time()
    cached = cache()
    once = time.process_time() - middle
    found = np.array(fit(cached, values))
    whole = time.process_time() - middle
    goals = [tell(numbers).reshape(-1) for numbers in (brute, found)]
    second, first = np.sort(np.unique(goals[0]))[-2:]
    return {
        "values": len(values),
        "seconds_running_again": round(middle - started, 2),
        "seconds_cached": round(whole, 2),
        "seconds_of_these_in_the_network": round(once, 2),
        "ratio": round((middle - started) / whole, 1),
        "ratio_of_one_more_value": round((middle - started) / (whole - once), 1),
        "largest_difference": float(np.nanmax(np.abs(brute - found))),
        "same_best_value": bool(goals[0].argmax() == goals[1].argmax()),
        "best_before_next": float(first - second),
    }


def labels(method: Method, dataset: DataSet, rows: Sequence[int], values: int, pixels: int) -> dict[str, Any]:
    """Temperature, and for each every threshold."""
    space = default_spaces(Segmenter(method), dataset)[0]

    def cache() -> CachedScores:
        return cache_scores(method, dataset, rows, space, pixels=pixels)

    def again(factor: float) -> tuple[CachedScores, bool]:
        method.scale_temperature(factor)
        try:
            return cache(), True
        finally:
            method.scale_temperature(1 / factor)

    def nll(given: Any, factors: Sequence[float]) -> list[list[float]]:
        if isinstance(given, tuple):
            return [[calibration(given[0]).nll]]
        return [[calibration(given, factor).nll] for factor in factors]

    def kept(given: Any, factors: Sequence[float]) -> list[list[float]]:
        if isinstance(given, tuple):
            found = [thresholds(given[0], CONFIDENCES)]
        else:
            found = [thresholds(given, CONFIDENCES, factor) for factor in factors]
        return [[number for t in row for number in (t.kept, t.accuracy)] for row in found]

    def gain(numbers: np.ndarray) -> np.ndarray:
        """Right pixels less five times the wrong ones among those that keep a label, for each value and threshold."""
        share, right = numbers[:, ::2], np.nan_to_num(numbers[:, 1::2])
        return share * (6 * right - 5)

    factors = np.geomspace(0.2, 5.0, values).tolist()
    return {
        "temperature": compared(factors, cache, nll, again, tell=np.negative),
        "threshold": compared(factors, cache, kept, again, tell=gain),
    }


def clusters(
    method: Stego, model: Path, dataset: DataSet, rows: Sequence[int], values: int, crf_images: int
) -> dict[str, Any]:
    """Number of clusters and weights of the CRF."""
    squares, classes = evaluation_squares(model), len(dataset.require_masks())
    none = method.cluster_probe.clusters[:0]

    def cache(rows: Sequence[int] = rows) -> Any:
        return cache_codes(method, dataset, rows, squares)

    def count(given: Any, numbers: Sequence[int]) -> list[list[float]]:
        return [[found.miou] for found in try_clusters(given, none, numbers)]

    numbers = np.unique(np.linspace(classes, 2 * classes, values).round().astype(int)).tolist()
    result = {"clusters": compared(numbers, cache, count, lambda _: cache())}
    if crf_images:
        few, crf = spread(len(dataset), crf_images), method.config.crf

        def refined(given: Any, pairs: Sequence[tuple[float, float]]) -> list[list[float]]:
            return [[miou] for miou in try_crf(method, given, crf, pairs)]

        found = compared(weights_around(crf), lambda: cache(few), refined, lambda _: cache(few))
        result["crf"] = {"images": len(few), **found}
    return result


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--values", type=int, default=40)
    parser.add_argument("--pixels", type=int, default=100_000)
    parser.add_argument("--crf-images", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    dataset = open_dataset(given.data, given.split)
    rows = spread(len(dataset), given.images)
    path = find_model(given.run)
    method = load_model(path)
    for row in rows:
        dataset.decoded(row)  # the first reading of a file is another matter
    if isinstance(method, Stego):
        found = clusters(method, path, dataset, rows, given.values, given.crf_images)
    else:
        found = labels(method, dataset, rows, given.values, given.pixels)
    print(json.dumps({"images": len(rows), **found}))


if __name__ == "__main__":
    main()
