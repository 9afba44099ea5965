"""The result file: the protocol in full, the counts, and every number made of them."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.confusion import IGNORE, ConfusionMatrix
from ovseg_ray.evaluation.inference import Inference, SingleScale
from ovseg_ray.evaluation.scoring import LabelSpace
from ovseg_ray.evaluation.spaces import unseen_labels
from ovseg_ray.methods.export import WEIGHTS_FILE, describe_model
from ovseg_ray.run_directory import write_atomically

FORMAT = "ovseg-ray result 1"
PACKAGES = ("ovseg-ray", "torch", "torchvision", "open_clip_torch", "timm", "numpy", "pillow", "ray")
RULES = {
    "truth": "each image at its own full size; masks are never resized",
    "ignored": "pixels that the mask marks as ignored, and classes that no label stands for",
    "mean": "over labels that occur in the truth; miou_all counts absent labels as 0",
}


def make_result(
    dataset: DataSet,
    spaces: Sequence[LabelSpace],
    matrices: Mapping[str, ConfusionMatrix],
    model: Path,
    *,
    seconds: float,
    inference: Inference | None = None,
) -> dict[str, Any]:
    """Everything about one evaluation, ready for JSON.

    Unseen are the labels that the data set itself holds out; where it names none, those of its labels that stand in
    no label set of the training (none at all, if that is every one).

    Keys: `format`; `protocol` (what was asked, the same for every model) and `protocol_hash`, so that two results
    with the same hash may be compared; `unseen_but_trained` (held-out labels that stand in a label set of the training:
    their numbers are not zero-shot); `model`, `versions`, `images`, `seconds`; and `spaces`: by name `metrics`,
    `iou` (label -> fraction, null where undefined), `unseen`, `distractors` (labels that stand for no class),
    `ignored_classes`, `text_hash` (of the embeddings) and `confusion` (rows: truth).
    """
    described = describe(model)
    trained = {name for labels in described.pop("label_sets") for name in labels}
    unseen = tuple(dataset.unseen) or _never_trained(dataset, trained)
    protocol = {
        "data": {"split": dataset.split, "kind": dataset.kind, "fingerprint": dataset.fingerprint()},
        "images": len(dataset),
        "rules": {**RULES, "image": (inference or SingleScale()).description},
        "unseen": sorted(unseen),
        "spaces": {space.name: _asked(space) for space in spaces},
    }
    content = json.dumps(protocol, sort_keys=True).encode()
    return {
        "format": FORMAT,
        "name": f"{dataset.path.name}/{dataset.split}",
        "protocol": protocol,
        "protocol_hash": hashlib.sha256(content).hexdigest()[:16],
        "data_path": str(dataset.path),
        **described,
        "unseen_but_trained": sorted(trained.intersection(unseen)),
        "images": len(dataset),
        "seconds": round(seconds, 2),
        "spaces": {space.name: _scored(space, matrices[space.name], dataset, unseen) for space in spaces},
    }


def describe(model: Path) -> dict[str, Any]:
    """What a result says of the model and of what can change a number: `model`, `versions`, and `label_sets` (names).

    Raises:
        UserError: no exported model there.
    """
    description = describe_model(model)
    return {
        "model": {
            "method": description.method,
            "config": description.config,
            "provenance": description.provenance,
            "packages": description.packages,
            "weights_hash": _file_hash(model / WEIGHTS_FILE),
        },
        "versions": versions(),
        "label_sets": [labels.names for labels in description.label_sets],
    }


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result file, whole or not at all; numbers that are not defined become null.

    Raises:
        UserError: it cannot be written.
    """
    write_atomically(path, json.dumps(plain(result), indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_result(path: str | Path) -> dict[str, Any]:
    """Read a result file.

    Raises:
        UserError: missing, broken, or not a result file.
    """
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the --out of an evaluation") from error
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON ({error}); evaluate again") from error
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise UserError(f"{path}: is not a result file ('format' is not '{FORMAT}'); give the --out of an evaluation")
    return result


def versions() -> dict[str, str]:
    """Of Python and the packages that can change a number."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # an optional part that is not installed changes nothing
    return found


def _never_trained(dataset: DataSet, trained: set[str]) -> tuple[str, ...]:
    never = tuple(name for name in dataset.require_masks().names if name not in trained)
    return () if len(never) == len(dataset.require_masks()) else never


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _asked(space: LabelSpace) -> dict[str, Any]:
    asked = {key: value for key, value in space.vocabulary.to_mapping().items() if key != "name"}
    return asked | {"truth_map": None if space.truth_map is None else space.truth_map.tolist()}


def _scored(
    space: LabelSpace, matrix: ConfusionMatrix, dataset: DataSet, unseen_names: Sequence[str]
) -> dict[str, Any]:
    classes, labels = dataset.require_masks().names, space.vocabulary.names
    truth_map = np.arange(len(classes)) if space.truth_map is None else space.truth_map
    unseen = unseen_labels(space, dataset, tuple(unseen_names))
    truth = matrix.counts.sum(axis=1)
    text = np.ascontiguousarray(space.text.cpu().numpy()).tobytes()
    return {
        "metrics": plain(matrix.metrics(unseen)),
        "iou": plain(dict(zip(labels, matrix.iou().tolist(), strict=True))),
        "pixels": dict(zip(labels, truth.tolist(), strict=True)),
        "unseen": [labels[i] for i in unseen],
        "distractors": [label for i, label in enumerate(labels) if i not in truth_map],
        "ignored_classes": [name for name, i in zip(classes, truth_map, strict=True) if i == IGNORE],
        "text_hash": hashlib.sha256(text).hexdigest()[:16],
        "confusion": matrix.counts.tolist(),
    }


def plain(value: Any) -> Any:
    """What JSON can hold: plain mappings and lists, numbers that are not defined as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
