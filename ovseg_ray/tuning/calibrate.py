"""A finished model with its temperature fitted: the same labels, a confidence that means what it says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.evaluate import default_spaces
from ovseg_ray.methods.export import describe_model, save_model
from ovseg_ray.segmenter import Segmenter, find_model
from ovseg_ray.training.validation import spread
from ovseg_ray.tuning.fit import cache_scores, calibration, fit_temperature, thresholds

CONFIDENCES = tuple(round(0.05 * step, 2) for step in range(20))


def calibrate(run: str | Path, dataset: DataSet, out: Path, *, images: int = 200) -> dict[str, Any]:
    """Write a copy of a model whose temperature makes the true labels of some images likeliest.

    The network runs once over the images; every value is then tried on its cached scores.

    Args:
        run: a finished run, or its `model/` directory.
        dataset: with masks: the labels are its own.
        out: directory of the copy, which loads like any model.
        images: used, evenly spread; 0: all.

    Returns:
        "temperature", "before" and "after" (see `Calibration`), "thresholds" (see `Threshold`), "pixels".

    Raises:
        UserError: no finished run, one that does not segment or has no temperature to fit, no masks, or `out` is there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there; choose a new or empty directory for --out")
    path = find_model(Path(run).absolute())
    segmenter = Segmenter.load(path, "cuda" if torch.cuda.is_available() else "cpu")
    method = segmenter.method
    method.scale_temperature(1.0)  # said now, not after the work
    space = default_spaces(segmenter, dataset)[0]
    cached = cache_scores(method, dataset, spread(len(dataset), images), space)
    factor = fit_temperature(cached)
    method.scale_temperature(factor)
    known = describe_model(path)
    provenance = {**known.provenance, "calibrated_on": {"data": dataset.fingerprint(), "images": images}}
    save_model(method, out, vocabularies=known.label_sets, provenance=provenance)
    return {
        "model": str(out),
        "temperature": getattr(method.config, "temperature", None),
        "factor": factor,
        "pixels": len(cached.truth),
        "before": asdict(calibration(cached)),
        "after": asdict(calibration(cached, factor)),
        "thresholds": [asdict(threshold) for threshold in thresholds(cached, CONFIDENCES, factor)],
    }
