"""Evaluation of a run whose clusters have no names, on Ray Data: counts are sums, so the number is always the same."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.data.squares import SquareConfig
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.clusters import ClusterCounts, ClusterScore
from ovseg_ray.evaluation.confusion import ConfusionMatrix
from ovseg_ray.evaluation.result import make_result
from ovseg_ray.evaluation.scoring import LabelSpace
from ovseg_ray.evaluation.unsupervised import UnsupervisedCounts, count_clusters
from ovseg_ray.methods.export import describe_model, load_model
from ovseg_ray.methods.stego.crf import CrfConfig
from ovseg_ray.progress import ProgressBar
from ovseg_ray.vocabulary import Vocabulary

BLOCK_IMAGES = 32
LEFT_OVER = "(no class)"  # what clusters beyond the classes are called
RULES = {
    "truth": "the centre square of each image, shorter side resized to the size of the squares by nearest neighbour",
    "image": "the same square; codes averaged with those of the mirrored image, upsampled to the square",
    "clusters": "matched to classes one to one, on the counts of the whole set: an upper bound for any naming",
    "linear": "a probe trained with labels on codes, which learn nothing from it",
    "named": "labels by the names of clusters, on the same squares; no CRF",
    "ignored": "pixels that the mask marks as ignored",
    "mean": "over labels that occur in the truth; miou_of_predicted counts classes that are only predicted as 0",
}


def evaluate_clusters(
    model: Path, dataset: DataSet, *, text: torch.Tensor | None = None, crf: bool = False, workers: int | None = None
) -> dict[str, Any]:
    """Score clusters and linear probe of a STEGO run. Ray must be connected.

    Args:
        model: directory of the exported model, seen by every node.
        dataset: with masks.
        text: (classes, D) embeddings of its classes, where the clusters have names.
        crf: refine every map, as the paper's final numbers are; some seconds an image.
        workers: actors holding the model; default: one a GPU, else one for every two CPUs.

    Returns:
        As `result.make_result`, with the spaces "clusters", where the probe knows as many classes "linear", and with
        `text` "named".

    Raises:
        UserError: no images or masks, an unreadable image, or fewer clusters than classes.
    """
    if len(dataset) == 0:
        raise UserError(f"{dataset.path} (split {dataset.split}): holds no images; give another data set or split")
    started = time.monotonic()
    counts = _count(model, dataset, text, crf, workers)
    scores = {"clusters": counts.clusters.matched()}
    if counts.linear is not None:
        scores["linear"] = counts.linear.unmatched()
    if counts.named is not None:
        scores["named"] = counts.named.unmatched()
    spaces = [_space(name, dataset, score) for name, score in scores.items()]
    matrices = {space.name: ConfusionMatrix(len(space.vocabulary), scores[space.name].histogram.T) for space in spaces}
    result = make_result(dataset, spaces, matrices, model, seconds=time.monotonic() - started)
    for name, score in scores.items():
        result["spaces"][name]["metrics"]["miou_of_predicted"] = score.miou
    result["spaces"]["clusters"]["cluster_classes"] = scores["clusters"].classes.tolist()
    squares = evaluation_squares(model)
    result["protocol"]["rules"] = {
        **RULES,
        "squares": squares.model_dump(mode="json"),
        "crf": crf and crf_rule(model),
    }
    return _rehashed(result)


def add_clusters(
    result: dict[str, Any],
    model: Path,
    dataset: DataSet,
    text: torch.Tensor,
    *,
    crf: bool = False,
    workers: int | None = None,
) -> dict[str, Any]:
    """What the clusters of a run could reach, put beside what its label answers did.

    Args:
        result: of `make_result`, with label spaces.
        model: whose clusters have names.
        dataset: with masks.
        text: (classes, D) embeddings of its classes.
        crf: as in `evaluate_clusters`.
        workers: the same.

    Returns:
        The result with the spaces of `evaluate_clusters` as well; unchanged where there are fewer clusters than
        classes, and so no matching.
    """
    config = describe_model(model).config
    if config["clusters"] + config["extra_clusters"] < len(dataset.require_masks()):
        return result
    found = evaluate_clusters(model, dataset, text=text, crf=crf, workers=workers)
    protocol = {
        **result["protocol"],
        "spaces": result["protocol"]["spaces"] | found["protocol"]["spaces"],
        "rules_of_clusters": found["protocol"]["rules"],
    }
    seconds = round(result["seconds"] + found["seconds"], 2)
    return _rehashed({**result, "protocol": protocol, "seconds": seconds, "spaces": result["spaces"] | found["spaces"]})


def _rehashed(result: dict[str, Any]) -> dict[str, Any]:
    content = json.dumps(result["protocol"], sort_keys=True).encode()
    return {**result, "protocol_hash": hashlib.sha256(content).hexdigest()[:16]}


def evaluation_squares(model: Path) -> SquareConfig:
    """Squares that a model is scored on: of its evaluation size, resampled as in training."""
    config = describe_model(model).config
    return SquareConfig(size=config["evaluation_size"], resampling=config["squares"]["resampling"])


def _crf_of(model: Path) -> CrfConfig:
    return CrfConfig.model_validate(describe_model(model).config.get("crf") or {})


def crf_rule(model: Path) -> dict[str, Any]:
    """What a protocol says of the CRF; results that saw the original's picture are not compared with others."""
    rule = _crf_of(model).model_dump(mode="json")
    return {**rule, "picture": "cut down to whole levels"} if describe_model(model).config.get("reference") else rule


def _space(name: str, dataset: DataSet, score: ClusterScore) -> LabelSpace:
    names = list(dataset.require_masks().names)
    left_over = len(score.histogram) > len(names)
    vocabulary = Vocabulary.of([*names, LEFT_OVER]) if left_over else dataset.require_masks()
    own = np.arange(len(names)) if left_over else None
    return LabelSpace(name, vocabulary, torch.zeros(len(vocabulary), 1), own)


def _count(
    model: Path, dataset: DataSet, text: torch.Tensor | None, crf: bool, workers: int | None
) -> UnsupervisedCounts:
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    workers = workers or gpus or max(1, int(resources.get("CPU", 1)) // 2)
    config = describe_model(model).config
    classes = len(dataset.require_masks())
    clusters = config["clusters"] + config["extra_clusters"]
    if clusters < classes:
        raise UserError(
            f"{dataset.path}: has {classes} classes, the model {clusters} clusters; train with model.clusters={classes}"
        )
    size = max(1, min(BLOCK_IMAGES, -(-len(dataset) // workers)))
    blocks = [dataset.index.slice(start, size) for start in range(0, len(dataset), size)]
    counted = ray.data.from_arrow(blocks).map_batches(
        _Counter,
        fn_constructor_args=(model, dataset.without_index(), text, crf),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(blocks))),
        num_gpus=1 if gpus else 0,
        num_cpus=1,
    )
    total = UnsupervisedCounts(
        ClusterCounts(classes, clusters - classes),
        ClusterCounts(classes) if config["classes"] == classes else None,
        ClusterCounts(classes) if text is not None else None,
    )
    done = 0
    with ProgressBar("evaluate", len(dataset), "images") as bar:
        for batch in counted.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in batch.to_pylist():
                if row["error"]:
                    raise UserError(row["error"])
                total.clusters.counts += np.reshape(row["clusters"], total.clusters.counts.shape)
                for name, part in (("linear", total.linear), ("named", total.named)):
                    if part is not None:
                        part.counts += np.reshape(row[name], part.counts.shape)
                done += row["images"]
                bar.update(done)
    if done != len(dataset):
        raise RuntimeError(f"{done} of {len(dataset)} images were scored")
    return total


class _Counter:
    """An actor that holds the model and turns a block of index rows into counts."""

    def __init__(self, model: Path, dataset: DataSet, text: torch.Tensor | None, crf: bool) -> None:
        self._device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._model: Any = load_model(model, self._device)
        self._dataset, self._text, self._crf = dataset, text, _crf_of(model) if crf else None
        self._squares = evaluation_squares(model)

    def __call__(self, block: pa.Table) -> pa.Table:
        config = self._model.config
        try:
            counts = count_clusters(
                self._model,
                replace(self._dataset, index=block),
                range(block.num_rows),
                clusters=config.clusters + config.extra_clusters,
                linear=config.classes == len(self._dataset.require_masks()),
                squares=self._squares,
                text=self._text,
                crf=self._crf,
                device=self._device,
            )
        except UserError as error:
            return _row([], [], [], 0, str(error))
        parts = (counts.clusters, counts.linear, counts.named)
        cells: list[Any] = [part.counts.reshape(-1) if part is not None else [] for part in parts]
        return _row(cells[0], cells[1], cells[2], block.num_rows, "")


def _row(clusters: Any, linear: Any, named: Any, images: int, error: str) -> pa.Table:
    numbers = pa.list_(pa.int64())
    return pa.table(
        {
            "clusters": pa.array([clusters], numbers),
            "linear": pa.array([linear], numbers),
            "named": pa.array([named], numbers),
            "images": pa.array([images], pa.int64()),
            "error": pa.array([error], pa.string()),
        }
    )
