"""Fitting what matters at inference alone on cached output against running the network again for every value.

    python benchmarks/cached_fit.py LSEG_RUN --data WORLD --values 40
    python benchmarks/cached_fit.py STEGO_RUN --data WORLD --values 20 --crf-images 8

Of a run that answers labels: temperature and threshold. Of a run whose clusters have no names: their number, and the
weights of the CRF. Both ways score the same pixels with the same values; the largest difference is printed beside the
times. One thread, one JSON line.
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
from ovseg_ray.tuning.fit_clusters import WEIGHTS, cache_codes, lattices, refined_miou, try_clusters


def compared(
    values: Sequence[Any], cache: Callable[[], Any], fit: Callable[[Any, Any], list[float]], again: Callable[[Any], Any]
) -> dict[str, Any]:
    """Times and the largest difference of both ways.

    Args:
        values: to try.
        cache: runs the network once, for all values.
        fit: numbers of a value, from what `cache` or `again` returned.
        again: runs the network for one value.
    """
    started = time.perf_counter()
    brute = [fit(again(value), value) for value in values]
    middle = time.perf_counter()
    cached = cache()
    once = time.perf_counter() - middle
    found = [fit(cached, value) for value in values]
    whole = time.perf_counter() - middle
    return {
        "values": len(values),
        "seconds_running_again": round(middle - started, 2),
        "seconds_cached": round(whole, 2),
        "seconds_of_these_in_the_network": round(once, 2),
        "ratio": round((middle - started) / whole, 1),
        "ratio_of_one_more_value": round((middle - started) / (whole - once), 1),
        "largest_difference": float(np.nanmax(np.abs(np.subtract(brute, found)))),
        "same_best_value": int(np.argmin([row[0] for row in brute])) == int(np.argmin([row[0] for row in found])),
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

    def nll(given: Any, factor: float) -> list[float]:
        return [calibration(given[0]).nll if isinstance(given, tuple) else calibration(given, factor).nll]

    def kept(given: Any, factor: float) -> list[float]:
        found = (
            thresholds(given[0], CONFIDENCES) if isinstance(given, tuple) else thresholds(given, CONFIDENCES, factor)
        )
        return [-found[0].accuracy, *(number for t in found for number in (t.kept, t.accuracy))]

    factors = np.geomspace(0.2, 5.0, values).tolist()
    return {"temperature": compared(factors, cache, nll, again), "threshold": compared(factors, cache, kept, again)}


def clusters(
    method: Stego, model: Path, dataset: DataSet, rows: Sequence[int], values: int, crf_images: int
) -> dict[str, Any]:
    """Number of clusters and weights of the CRF."""
    squares, classes = evaluation_squares(model), len(dataset.require_masks())
    known = method.cluster_probe.clusters

    def cache(rows: Sequence[int] = rows) -> Any:
        return cache_codes(method, dataset, rows, squares)

    def count(given: Any, number: int) -> list[float]:
        return [-try_clusters(given, known, (number,))[-1].miou]

    numbers = np.linspace(classes, 2 * classes, values).round().astype(int).tolist()
    result = {"clusters": compared(numbers, cache, count, lambda _: cache())}
    if crf_images:
        few = spread(len(dataset), crf_images)
        crf = method.config.crf
        pairs = [(crf.smoothness_weight * a, crf.appearance_weight * b) for a in WEIGHTS for b in WEIGHTS]

        def cache_lattices() -> Any:
            cached = cache(few)
            return cached, lattices(cached, crf)

        def refined(given: Any, pair: tuple[float, float]) -> list[float]:
            return [-refined_miou(method, given[0], [kernel.weighted(*pair) for kernel in given[1]])]

        found = compared(pairs, cache_lattices, refined, lambda _: cache_lattices())
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
