"""A finished model with what matters at inference alone fitted on cached scores.

Of a model that answers labels that is the temperature: the same labels, a confidence that means what it says. Of one
that tells clusters apart it is their number, and where asked for the weights of the CRF.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.evaluate import default_spaces
from ovseg_ray.evaluation.evaluate_clusters import evaluation_squares
from ovseg_ray.methods.base import Method
from ovseg_ray.methods.export import describe_model, load_model, save_model
from ovseg_ray.methods.stego import Stego
from ovseg_ray.progress import ProgressBar
from ovseg_ray.run_directory import find_model
from ovseg_ray.segmenter import Segmenter
from ovseg_ray.training.validation import spread
from ovseg_ray.tuning.fit import cache_scores, calibration, fit_temperature, thresholds
from ovseg_ray.tuning.fit_clusters import SHARES, CachedCodes, cache_codes, try_clusters, try_crf, weights_around

CONFIDENCES = tuple(round(0.05 * step, 2) for step in range(20))
CRF_IMAGES = 24  # that its weights are fitted on: its iterations are slow


def calibrate(
    run: str | Path, dataset: DataSet, out: Path, *, images: int = 200, clusters: Sequence[int] = (), crf: bool = False
) -> dict[str, Any]:
    """Write a copy of a model whose temperature, or whose number of clusters, suits some images best.

    The network runs once over the images; every value is then tried on its cached scores.

    Args:
        run: a finished run, or its `model/` directory.
        dataset: with masks: the labels are its own.
        out: directory of the copy, which loads like any model.
        images: used, evenly spread; 0: all.
        clusters: numbers to try where clusters have no names; default: 1, 1.25, 1.5 and 2 times the classes.
        crf: fit the weights of its CRF as well, on a few of the images.

    Returns:
        "before" and "after", "images", and for labels "temperature", "factor", "pixels", "thresholds" (see
        `Calibration` and `Threshold`), for clusters "clusters", "tried" and "crf".

    Raises:
        UserError: no finished run, one that does not segment or has nothing to fit, no masks, or `out` is there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there; choose a new or empty directory for --out")
    path = find_model(Path(run).absolute())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = spread(len(dataset), images)
    known = describe_model(path)
    method = load_model(path, device)
    if isinstance(method, Stego):
        if method.segments:
            raise UserError(f"{run}: its clusters have names, which belong to these clusters; give the unnamed run")
        found = _fit_clusters(method, path, dataset, rows, clusters, crf)
    elif clusters or crf:
        option = "--crf" if crf else "--clusters"
        raise UserError(f"{option}: a '{method.name}' model has no clusters; leave it out")
    else:
        found = _fit_temperature(method, dataset, rows)
    provenance = {**known.provenance, "calibrated_on": {"data": dataset.fingerprint(), "images": images}}
    save_model(method, out, vocabularies=known.label_sets, provenance=provenance)
    return {"model": str(out), "images": len(rows), **found}


def _fit_temperature(method: Method, dataset: DataSet, rows: Sequence[int]) -> dict[str, Any]:
    method.scale_temperature(1.0)  # said now, not after the work
    space = default_spaces(Segmenter(method), dataset)[0]
    with ProgressBar("score", len(rows), "images") as bar:
        cached = cache_scores(method, dataset, rows, space, progress=bar.update)
    factor = fit_temperature(cached)
    method.scale_temperature(factor)
    return {
        "temperature": getattr(method.config, "temperature", None),
        "factor": factor,
        "pixels": len(cached.truth),
        "before": asdict(calibration(cached)),
        "after": asdict(calibration(cached, factor)),
        "thresholds": [asdict(threshold) for threshold in thresholds(cached, CONFIDENCES, factor)],
    }


def _fit_clusters(
    method: Stego, model: Path, dataset: DataSet, rows: Sequence[int], counts: Sequence[int], crf: bool
) -> dict[str, Any]:
    classes = len(dataset.require_masks())
    counts = counts or [round(classes * share) for share in SHARES]
    if min(counts) < classes:
        raise UserError(
            f"--clusters {min(counts)}: {dataset.path} has {classes} classes to match; give as many or more"
        )
    with ProgressBar("encode", len(rows), "images") as bar:
        cached = cache_codes(method, dataset, rows, evaluation_squares(model), bar.update)
    with ProgressBar("try clusters", len(counts), "numbers") as bar:
        tried = try_clusters(cached, method.cluster_probe.clusters, counts, progress=bar.update)
    if not tried:
        places = len(cached.codes())
        raise UserError(f"--clusters {min(counts)}: the images have {places} places, fewer than that; take more images")
    best = max(tried, key=lambda centroids: centroids.miou)
    if not best.learned:
        method.take_clusters(best.vectors)
    learned = [centroids.miou for centroids in tried if centroids.learned]
    found = {
        "clusters": len(best.vectors),
        "before": {"miou": learned[0]} if learned else {},
        "after": {"miou": best.miou},
        "tried": [{"clusters": len(c.vectors), "learned": c.learned, "miou": c.miou} for c in tried],
    }
    return {**found, "crf": _fit_crf(method, cached)} if crf else found


def _fit_crf(method: Stego, cached: CachedCodes) -> dict[str, Any]:
    some, config = cached.some(CRF_IMAGES), method.config.crf
    pairs = weights_around(config)
    with ProgressBar("try weights of the CRF", len(some.pictures), "images") as bar:
        mious = try_crf(method, some, config, pairs, bar.update)
    best = max(range(len(pairs)), key=mious.__getitem__)
    chosen = dict(zip(("smoothness_weight", "appearance_weight"), pairs[best], strict=True))
    method.config = method.config.model_copy(update={"crf": config.model_copy(update=chosen)})
    return {**chosen, "before": {"miou": mious[0]}, "after": {"miou": mious[best]}}
