"""A trained model on disk: `model.json` says what it is, safetensors hold its numbers, `text/` its text tower.

Self-contained: loading needs neither the weight files nor the text encoder that training began from. No pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ovseg_ray import __version__
from ovseg_ray.config import Precision, build
from ovseg_ray.errors import UserError
from ovseg_ray.methods.base import Method
from ovseg_ray.methods.precision import encode_in
from ovseg_ray.methods.registry import get_method
from ovseg_ray.run_directory import write_directory_atomically
from ovseg_ray.vocabulary import Vocabulary
from ovseg_ray.vocabulary.encoders import load_text_encoder

FORMAT = 1
DESCRIPTION_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
TEXT_DIRECTORY = "text"
PACKAGES = ("torch", "torchvision", "open_clip_torch", "safetensors")


@dataclass(frozen=True)
class ModelDescription:
    """What `model.json` says.

    Attributes:
        method: name of the method.
        config: its configuration.
        label_sets: trained on, with the templates asked.
        provenance: where it comes from (hashes, seed, ...), as given to `save_model`.
        packages: versions it was written with.
    """

    method: str
    config: dict[str, Any]
    label_sets: tuple[Vocabulary, ...]
    provenance: dict[str, Any]
    packages: dict[str, str]


def save_model(
    method: Method, directory: Path, *, vocabularies: Sequence[Vocabulary], provenance: Mapping[str, Any]
) -> None:
    """Write a model directory that is there whole or not at all.

    Args:
        method: the model.
        directory: where; an older one is replaced.
        vocabularies: label sets it was trained on; default for a method that knows its own: `method.label_sets`.
        provenance: anything JSON can hold.

    Raises:
        UserError: it cannot be written.
    """
    description = {
        "format": FORMAT,
        "method": method.name,
        "config": method.config.model_dump(mode="json"),
        "label_sets": [labels.to_mapping() for labels in method.label_sets or vocabularies],
        "provenance": dict(provenance),
        "packages": {"ovseg-ray": __version__, **{package: version(package) for package in PACKAGES}},
    }
    # copies: safetensors refuses tensors that share memory
    state = {key: value.detach().cpu().contiguous().clone() for key, value in method.state_dict().items()}

    def fill(partial: Path) -> None:
        if method.text_encoder is not None:
            method.text_encoder.save(partial / TEXT_DIRECTORY)
        save_file(state, partial / WEIGHTS_FILE)
        text = json.dumps(description, indent=1, ensure_ascii=False)
        (partial / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")

    try:
        write_directory_atomically(directory, fill)
    except SafetensorError as error:
        raise UserError(f"{directory}: cannot be written ({error}); make room or choose another place") from error


def describe_model(directory: Path) -> ModelDescription:
    """Read `model.json` alone.

    Raises:
        UserError: it is missing, damaged, or of another format version.
    """
    path = directory / DESCRIPTION_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the model directory of a finished run") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not valid JSON; export the model again") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise UserError(f"{path}: format {found!r}, this version reads {FORMAT}; use the version that wrote it")
    try:
        label_sets = tuple(Vocabulary.from_mapping(value, str(path)) for value in content["label_sets"])
        return ModelDescription(
            content["method"], content["config"], label_sets, content["provenance"], content["packages"]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is incomplete ({error}); export the model again") from error


def load_model(directory: Path, device: str | torch.device = "cpu", precision: Precision = "fp32") -> Method:
    """A model in eval mode, with its text encoder and the label sets it was trained on.

    Args:
        directory: that `save_model` wrote.
        device: where it runs.
        precision: of the network of `encode`; weights and scores stay float32.

    Raises:
        UserError: a file is missing, damaged, of another format version, or does not fit the others.
    """
    directory = Path(directory)
    description = describe_model(directory)
    cls = get_method(description.method)
    method = cls(build(cls.config_class, description.config, f"{directory / DESCRIPTION_FILE}: config"))
    if (directory / TEXT_DIRECTORY).is_dir():
        method.use_text_encoder(load_text_encoder(directory / TEXT_DIRECTORY))
    path = directory / WEIGHTS_FILE
    try:
        method.load_state_dict(load_file(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read; copy the whole model directory again") from error
    except SafetensorError as error:
        raise UserError(f"{path}: is damaged ({error}); copy the model directory again") from error
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:120]
        message = f"{path}: does not fit {DESCRIPTION_FILE} ({problem}); copy the model directory again"
        raise UserError(message) from error
    method.label_sets = description.label_sets
    method.eval().to(device)
    encode_in(method, precision)
    return method
