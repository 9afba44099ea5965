"""Prediction for many files on Ray Data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.data

from ovseg_ray.cluster import connect
from ovseg_ray.config import Precision
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.predictor import Predictor, Work
from ovseg_ray.vocabulary import Vocabulary

BLOCK_IMAGES = 16


def predict_on_ray(
    predictor: Predictor, work: Sequence[Work], address: str | None, *, debug: bool = False
) -> Iterator[tuple[str, str]]:
    """What `predictor` returns for every image, in any order, from actors that each hold the same model.

    Raises:
        UserError: results that cannot be written.
    """
    with connect(address, debug=debug):
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        workers = gpus or max(1, int(resources.get("CPU", 1)) // 2)
        blocks = math.ceil(len(work) / BLOCK_IMAGES)
        rows = [{"path": path, "name": name} for path, name in work]
        done = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
            _PredictorActor,
            fn_constructor_args=(predictor.model, predictor.vocabulary, predictor.out, predictor.precision),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=min(workers, blocks)),
            num_gpus=1 if gpus else 0,
            num_cpus=1,
        )
        for batch in done.iter_batches(batch_size=None):
            for path, problem, fatal in zip(batch["path"], batch["problem"], batch["fatal"], strict=True):
                if fatal:
                    raise UserError(str(fatal))
                yield str(path), str(problem)


class _PredictorActor:
    """Holds a predictor on a worker."""

    def __init__(self, model: Path, vocabulary: Vocabulary, out: Path, precision: Precision) -> None:
        self._predictor = Predictor(model, vocabulary, out, precision)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, list[str]] = {"path": [], "problem": [], "fatal": []}
        for path, name in zip(batch["path"], batch["name"], strict=True):
            try:
                problem, fatal = self._predictor((str(path), str(name)))[1], ""
            except UserError as error:
                problem, fatal = "", str(error)
            for key, value in (("path", str(path)), ("problem", problem), ("fatal", fatal)):
                found[key].append(value)
        return found
