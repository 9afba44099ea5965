"""Evaluation of a finished run on Ray Data: the same number however the images are dealt out."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

from ovseg_ray.config import Precision
from ovseg_ray.data.dataset import DataSet
from ovseg_ray.data.episodes import Fold
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.controls import parents_space, shuffled
from ovseg_ray.evaluation.distributed import score_on_ray
from ovseg_ray.evaluation.inference import Inference
from ovseg_ray.evaluation.result import make_result, write_result
from ovseg_ray.evaluation.scoring import LabelSpace
from ovseg_ray.evaluation.spaces import label_space
from ovseg_ray.evaluation.unsupervised import ClusterModel
from ovseg_ray.methods.export import load_model
from ovseg_ray.run_directory import find_model
from ovseg_ray.segmenter import Labels, Segmenter


def evaluate(
    run: str | Path,
    dataset: DataSet,
    *,
    labels: Labels | None = None,
    controls: bool = False,
    out: Path | None = None,
    workers: int | None = None,
    crf: bool = False,
    inference: Inference | None = None,
    episodes: Fold | None = None,
    precision: Precision = "fp32",
) -> dict[str, Any]:
    """Score a run on a data set. Ray must be connected (`ovseg_ray.cluster.connect`).

    Every image counts: one that cannot be read ends the evaluation with its name, since a number over fewer
    images than it claims is a wrong number.

    Args:
        run: a finished run, or its `model/` directory.
        dataset: with masks.
        labels: to predict with ("a, b", names, or a vocabulary), matched to the truth by `label_space`; default: the
            data set's own, asked with the templates of the training.
        controls: also score `shuffled` texts, and `parents` where the data set has a hierarchy.
        out: result file to write.
        workers: actors holding the model; default: one a GPU, else one for every two CPUs.
        crf: refine the maps of a model whose clusters have no names (`evaluate_clusters`).
        inference: how images are looked at; default: once, as the method preprocesses them.
        precision: of the image network; scores stay float32.
        episodes: play the zero-shot episodes of a fold instead (`evaluate_episodes`).

    Returns:
        The result (see `result.make_result`).

    Raises:
        UserError: no finished run, one that does not segment, an option that says nothing to its method, no masks, an
            unreadable image or mask, labels that name no class, or a result file that cannot be written.
    """
    if out is not None and out.is_dir():  # said now, not after the work
        raise UserError(f"{out}: is a folder; give a file for the result, such as {out / 'result.json'}")
    model = find_model(Path(run).absolute())
    load = functools.partial(load_model, precision=precision)
    method = load(model)
    if precision != "fp32" and isinstance(method, ClusterModel):
        raise UserError("--precision: clusters are matched in fp32; leave it out")
    if not method.segments and isinstance(method, ClusterModel):
        _refuse_for_clusters(
            method.name,
            {"--labels": labels, "--controls": controls, "--multi-scale": inference, "--episodes": episodes},
        )
        from ovseg_ray.evaluation.evaluate_clusters import evaluate_clusters

        result = evaluate_clusters(model, dataset, crf=crf, workers=workers)
        if out is not None:
            write_result(out, result)
        return result
    if crf and not isinstance(method, ClusterModel):
        raise UserError(f"--crf: refines clusters, and a '{method.name}' model has none; leave it out")
    segmenter = Segmenter(method)
    if episodes is not None:
        from ovseg_ray.evaluation.evaluate_episodes import evaluate_episodes

        embed, templates = segmenter.embeddings.embed, segmenter.templates
        result = evaluate_episodes(load, model, dataset, episodes, embed, templates, workers=workers)
        result["model"]["precision"] = precision
        if out is not None:
            write_result(out, result)
        return result
    spaces = default_spaces(segmenter, dataset, labels, controls=controls)
    started = time.monotonic()
    matrices = score_on_ray(load, model, dataset, spaces, inference=inference, workers=workers)
    seconds = time.monotonic() - started
    result = make_result(dataset, spaces, matrices, model, seconds=seconds, inference=inference)
    result["model"]["precision"] = precision
    if isinstance(method, ClusterModel) and labels is None and inference is None:
        from ovseg_ray.evaluation.evaluate_clusters import add_clusters

        result = add_clusters(result, model, dataset, spaces[0].text, crf=crf, workers=workers)
    if out is not None:
        write_result(out, result)
    return result


def _refuse_for_clusters(method: str, options: dict[str, object]) -> None:
    for option, given in options.items():
        if given:
            raise UserError(
                f"{option}: a '{method}' model finds clusters without names; leave it out, or name them with "
                "'ovseg-ray name'"
            )


def default_spaces(
    segmenter: Segmenter, dataset: DataSet, labels: Labels | None = None, *, controls: bool = False
) -> list[LabelSpace]:
    """The label spaces that `evaluate` scores; the first, "labels", is the one that results are quoted from.

    Raises:
        UserError: no label names a class.
    """
    own = dataset.require_masks()
    asked = own.with_templates(segmenter.templates) if labels is None else segmenter.vocabulary(labels)
    embed = segmenter.embeddings.embed
    spaces = [label_space("labels", dataset, asked, embed)]
    if controls:
        spaces += [shuffled(spaces[0])] if len(asked) > 1 else []
        spaces += [parents_space(dataset, embed, asked.templates)] if dataset.parents else []
    return spaces
