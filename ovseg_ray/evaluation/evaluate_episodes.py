"""Scoring of zero-shot episodes on Ray Data: one held-out class against all else, image by image."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from torch import Tensor

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.data.episodes import Fold, Pair
from ovseg_ray.data.transforms import resize_exact, resize_nearest
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.distributed import Load
from ovseg_ray.evaluation.episodes import EpisodeScores
from ovseg_ray.evaluation.inference import device_of
from ovseg_ray.evaluation.result import FORMAT, describe, plain
from ovseg_ray.evaluation.scoring import BATCH_SIZE
from ovseg_ray.methods.base import Method
from ovseg_ray.progress import ProgressBar
from ovseg_ray.vocabulary import Vocabulary

CLASS = "class_index"  # column beside those of the index
RULES = {
    "mean": "miou: mean over held-out classes of the class's IoU over all its episodes; fb_iou: mean of the IoU of "
    "everything else and of the classes, each summed over classes first",
    "image": "single scale, no flip",
}


def score_episodes(
    method: Method, dataset: DataSet, fold: Fold, episodes: Sequence[Pair], texts: Mapping[int, Tensor]
) -> EpisodeScores:
    """Play some episodes.

    Args:
        method: put into evaluation mode; runs where its parameters are.
        dataset: with masks.
        fold: the protocol.
        episodes: row of `dataset` and class.
        texts: (2, D) embeddings of `Fold.question` by class.

    Raises:
        UserError: an unreadable image or mask.
    """
    method.eval()
    device, classes = device_of(method), len(dataset.require_masks())
    scores = EpisodeScores(texts)
    for start in range(0, len(episodes), BATCH_SIZE):
        views = [_view(dataset, fold, pair, classes) for pair in episodes[start : start + BATCH_SIZE]]
        views.sort(key=lambda view: view[1].shape)
        for _, same in groupby(views, key=lambda view: view[1].shape):
            group = list(same)
            prepare = method.preprocess if fold.protocol.size is None else method.normalise
            with torch.inference_mode():
                encoding = method.encode(torch.stack([prepare(image) for image, *_ in group]).to(device))
                for i, (_, truth, ignored, index) in enumerate(group):
                    one = encoding.select(torch.tensor([i], device=device))
                    shape = (truth.shape[0], truth.shape[1])
                    found = method.segment(one, texts[index].to(device), shape).label_map[0]
                    scores.update(found.cpu().numpy(), truth, index, ignored)
    return scores


def _view(dataset: DataSet, fold: Fold, pair: Pair, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    sample = dataset.decoded(pair.row)
    if sample.mask is None:
        raise UserError(f"image '{sample.image_id}': has no mask; evaluate on a split where every image has one")
    truth, ignored = fold.target(sample.mask, classes, pair.class_index)
    image, side = sample.image, fold.protocol.size
    if side is not None:
        image = resize_exact(image, None, (side, side))[0]
        truth, ignored = (resize_nearest(mask, (side, side)) for mask in (truth, ignored))
    return image, truth, ignored, pair.class_index


def evaluate_episodes(
    load: Load,
    model: Path,
    dataset: DataSet,
    fold: Fold,
    embed: Callable[[Vocabulary], Tensor],
    templates: Sequence[str],
    *,
    workers: int | None = None,
) -> dict[str, Any]:
    """Play all episodes of a fold, spread over the cluster; Ray must be connected.

    Args:
        load: reads the model on a worker.
        model: directory of the exported model, seen by every node.
        dataset: with masks, its files seen by every node.
        fold: protocol and held-out classes.
        embed: text tower of the model.
        templates: prompts of the training.
        workers: actors holding the model; default: one a GPU, else one for every two CPUs.

    Returns:
        A result as `make_result` makes it, whose only space is named like the fold.

    Raises:
        UserError: no image of a held-out class, or an unreadable image or mask.
    """
    episodes, started = fold.episodes(dataset), time.monotonic()
    questions = {index: fold.question(dataset, index).with_templates(templates) for index in fold.held_out(dataset)}
    texts = {index: torch.as_tensor(embed(question)) for index, question in questions.items()}
    scores = EpisodeScores(texts)
    with ProgressBar("evaluate", len(episodes), "episodes") as bar:
        for part in _scored(load, model, dataset, fold, episodes, texts, workers):
            if part["error"]:
                raise UserError(part["error"])
            matrix = scores.matrices[part[CLASS]]
            matrix.counts += np.array(part["counts"], np.int64).reshape(2, 2)
            bar.update(part["episodes"], miou=f"{scores.metrics()['miou']:.3f}")
    names = {index: dataset.require_masks().names[index] for index in questions}
    return _result(model, dataset, fold, scores, names, questions, len(episodes), time.monotonic() - started)


def _scored(
    load: Load,
    model: Path,
    dataset: DataSet,
    fold: Fold,
    episodes: Sequence[Pair],
    texts: dict[int, Tensor],
    workers: int | None,
) -> Iterator[dict[str, Any]]:
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    workers = workers or gpus or max(1, int(resources.get("CPU", 1)) // 2)
    rows = dataset.index.take(np.array([pair.row for pair in episodes]))
    rows = rows.append_column(CLASS, pa.array([pair.class_index for pair in episodes], pa.int64()))
    # whole batches, so that the network sees the same ones however many workers there are
    step = max(1, math.ceil(len(episodes) / workers / BATCH_SIZE / 2)) * BATCH_SIZE
    blocks = [rows.slice(start, step) for start in range(0, len(episodes), step)]
    scored = ray.data.from_arrow(blocks).map_batches(
        _Player,
        fn_constructor_args=(load, model, dataset.without_index(), fold, texts),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(blocks))),
        num_gpus=1 if gpus else 0,
        num_cpus=1,
    )
    for table in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from table.to_pylist()


class _Player:
    """An actor that holds the model and turns a block of episodes into counts."""

    def __init__(self, load: Load, model: Path, dataset: DataSet, fold: Fold, texts: dict[int, Tensor]) -> None:
        self._method = load(model, "cuda" if torch.cuda.is_available() else "cpu")
        self._dataset, self._fold, self._texts = dataset, fold, texts

    def __call__(self, block: pa.Table) -> pa.Table:
        dataset = replace(self._dataset, index=block.drop_columns([CLASS]))
        episodes = [Pair(row, index) for row, index in enumerate(block.column(CLASS).to_pylist())]
        rows: list[dict[str, Any]] = []
        try:
            scores = score_episodes(self._method, dataset, self._fold, episodes, self._texts)
            played = [index for _, index in episodes]
            for index, matrix in scores.matrices.items():
                if index in played:
                    counts = matrix.counts.ravel().tolist()
                    rows.append({CLASS: index, "counts": counts, "episodes": played.count(index), "error": ""})
        except UserError as error:
            rows = [{CLASS: 0, "counts": [], "episodes": 0, "error": str(error)}]
        return pa.Table.from_pylist(
            rows,
            pa.schema(
                {CLASS: pa.int64(), "counts": pa.list_(pa.int64()), "episodes": pa.int64(), "error": pa.string()}
            ),
        )


def _result(
    model: Path,
    dataset: DataSet,
    fold: Fold,
    scores: EpisodeScores,
    names: Mapping[int, str],
    questions: Mapping[int, Vocabulary],
    episodes: int,
    seconds: float,
) -> dict[str, Any]:
    protocol = {
        "data": {"split": dataset.split, "kind": dataset.kind, "fingerprint": dataset.fingerprint()},
        "episodes": {"name": fold.name, "count": episodes, **fold.protocol.model_dump(mode="json")},
        "rules": RULES,
        "unseen": sorted(names.values()),
        "questions": {names[index]: question.to_mapping()["labels"] for index, question in questions.items()},
    }
    content = json.dumps(protocol, sort_keys=True).encode()
    described = describe(model)
    trained = {name for labels in described.pop("label_sets") for name in labels}
    truth = {names[index]: int(matrix.counts[1].sum()) for index, matrix in scores.matrices.items()}
    return {
        "format": FORMAT,
        "name": f"{dataset.path.name}/{dataset.split}",
        "protocol": protocol,
        "protocol_hash": hashlib.sha256(content).hexdigest()[:16],
        "data_path": str(dataset.path),
        **described,
        "unseen_but_trained": sorted(trained.intersection(names.values())),
        "images": episodes,
        "seconds": round(seconds, 2),
        "spaces": {
            fold.name: {
                "metrics": plain(scores.metrics()),
                "iou": plain({names[i]: float(m.iou()[1]) for i, m in scores.matrices.items()}),
                "pixels": truth,
                "unseen": list(names.values()),
                "confusion": {names[index]: matrix.counts.tolist() for index, matrix in scores.matrices.items()},
            }
        },
    }
