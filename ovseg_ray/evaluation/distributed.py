"""Scoring a whole data set on Ray Data: actors hold the model, blocks of index rows come to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.confusion import ConfusionMatrix
from ovseg_ray.evaluation.inference import Inference
from ovseg_ray.evaluation.scoring import BATCH_SIZE, LabelSpace, check_spaces, score_rows
from ovseg_ray.methods.base import Method
from ovseg_ray.progress import ProgressBar

BLOCK_ROWS = 64
Load: TypeAlias = Callable[[Path, str], Method]
"""Reads a model, given its directory and a device: `ovseg_ray.methods.export.load_model`."""


def score_on_ray(
    load: Load,
    model: Path,
    dataset: DataSet,
    spaces: Sequence[LabelSpace],
    *,
    inference: Inference | None = None,
    workers: int | None = None,
    block_rows: int | None = None,
) -> dict[str, ConfusionMatrix]:
    """`score_rows` over all of a data set, spread over the cluster in blocks of rows.

    Blocks are cut at multiples of the batch size, so every batch, and with it every count, is that of `score_rows`.

    Args:
        load: reads the model on a worker.
        model: directory of the exported model, seen by every node.
        dataset: with masks, its files seen by every node.
        spaces: label lists.
        inference: how images are looked at; default: once, as the method preprocesses them.
        workers: actors holding the model; default: one a GPU, else one for every two CPUs.
        block_rows: images a block; rounded up to whole batches.

    Raises:
        UserError: an image or mask is unreadable, or there are no images.
    """
    if len(dataset) == 0:
        raise UserError(f"{dataset.path} (split {dataset.split}): holds no images; give another data set or split")
    check_spaces(spaces, len(dataset.require_masks()))
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    workers = workers or gpus or max(1, int(resources.get("CPU", 1)) // 2)
    block_rows = block_rows or min(BLOCK_ROWS, math.ceil(len(dataset) / workers))
    block_rows = math.ceil(block_rows / BATCH_SIZE) * BATCH_SIZE
    blocks = [dataset.index.slice(start, block_rows) for start in range(0, len(dataset), block_rows)]
    scored = ray.data.from_arrow(blocks).map_batches(
        _Scorer,
        # the texts travel as a reference: an actor with large arguments of its own could not be restarted
        fn_constructor_args=(
            load,
            model,
            replace(dataset, index=dataset.index.schema.empty_table()),
            list(spaces),
            inference,
        ),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(blocks))),
        num_gpus=1 if gpus else 0,
        num_cpus=1,
    )
    matrices = {space.name: ConfusionMatrix(len(space.vocabulary)) for space in spaces}
    images = 0
    with ProgressBar("evaluate", len(dataset), "images") as bar:
        for part in _parts(scored):
            if part["error"]:
                raise UserError(part["error"])
            matrix = matrices[part["space"]]
            matrix.counts.reshape(-1)[part["cells"]] += part["counts"]
            images += part["images"]
            bar.update(images, miou=f"{matrices[spaces[0].name].metrics()['miou']:.3f}")
    if images != len(dataset):
        raise RuntimeError(f"{images} of {len(dataset)} images were scored")
    return matrices


class _Scorer:
    """An actor that holds the model and turns a block of index rows into counts."""

    def __init__(
        self, load: Load, model: Path, dataset: DataSet, spaces: list[LabelSpace], inference: Inference | None
    ) -> None:
        self._method = load(model, "cuda" if torch.cuda.is_available() else "cpu")
        self._dataset = dataset
        self._spaces = spaces
        self._inference = inference

    def __call__(self, block: pa.Table) -> pa.Table:
        try:
            dataset = replace(self._dataset, index=block)
            matrices = score_rows(self._method, dataset, range(block.num_rows), self._spaces, inference=self._inference)
        except UserError as error:
            return _table([("", [], [], 0, str(error))])
        rows = []
        for i, (name, matrix) in enumerate(matrices.items()):
            flat = matrix.counts.reshape(-1)
            cells = np.flatnonzero(flat)  # thousands of labels leave most cells empty
            rows.append((name, cells, flat[cells], 0 if i else block.num_rows, ""))
        return _table(rows)


def _table(rows: Sequence[tuple[str, Any, Any, int, str]]) -> pa.Table:
    space, cells, counts, images, error = zip(*rows, strict=True)
    numbers = pa.list_(pa.int64())
    return pa.table(
        {
            "space": pa.array(space, pa.string()),
            "cells": pa.array(cells, numbers),
            "counts": pa.array(counts, numbers),
            "images": pa.array(images, pa.int64()),
            "error": pa.array(error, pa.string()),
        }
    )


def _parts(scored: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    for table in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
        for part in table.to_pylist():
            yield part | {key: np.asarray(part[key], np.int64) for key in ("cells", "counts")}
