"""The models of a replica, by name and version."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ovseg_ray.methods.export import DESCRIPTION_FILE, WEIGHTS_FILE
from ovseg_ray.segmenter import Segmenter, find_model
from ovseg_ray.serving.api import ModelInfo
from ovseg_ray.serving.config import ServedModelConfig
from ovseg_ray.serving.problems import ProblemError


@dataclass(frozen=True)
class ServedModel:
    """A loaded model.

    Attributes:
        name: what clients call it.
        version: of what stands under that name.
        segmenter: the model itself.
    """

    name: str
    version: str
    segmenter: Segmenter

    @classmethod
    def load(cls, config: ServedModelConfig) -> ServedModel:
        """
        Raises:
            UserError: no finished model there, one that does not segment, or no such device.
        """
        directory = find_model(Path(config.run))
        name, version = identity(config)
        return cls(name, version, Segmenter.load(directory, config.device))

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.segmenter.method.parameters()).device


def identity(config: ServedModelConfig) -> tuple[str, str]:
    """Name and version of a model that need not be loaded.

    Raises:
        UserError: no finished model there.
    """
    directory = find_model(Path(config.run))
    run = directory.parent if directory.name == "model" else directory
    return config.name or run.name, config.version or fingerprint(directory)


def fingerprint(directory: Path) -> str:
    """Hash of a model's files: 12 hex digits."""
    digest = hashlib.sha256()
    for name in (DESCRIPTION_FILE, WEIGHTS_FILE):
        with (directory / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


class Models:
    """What a replica serves; never changed, only replaced as a whole.

    Args:
        models: in the order of the configuration.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = tuple(models)

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._models)

    def get(self, wanted: str | None) -> ServedModel:
        """The model of "NAME" (its latest version), "NAME@VERSION", or None for the default.

        Raises:
            ProblemError: no such model.
        """
        if wanted is None:
            return self._models[0]
        name, at, version = wanted.partition("@")
        for model in self._models:
            if model.name == name and (not at or model.version == version):
                return model
        known = ", ".join(dict.fromkeys(f"{model.name}@{model.version}" if at else model.name for model in self))
        raise ProblemError("model_not_found", f'no model "{wanted}"; there is {known}')

    def describe(self) -> list[ModelInfo]:
        """What `/v1/models` says."""
        found = []
        for position, model in enumerate(self._models):
            label_sets = model.segmenter.method.label_sets
            found.append(
                ModelInfo(
                    name=model.name,
                    version=model.version,
                    method=model.segmenter.method.name,
                    labels=list(dict.fromkeys(name for labels in label_sets for name in labels.names)),
                    templates=list(model.segmenter.templates),
                    default=position == 0,
                    latest=self.get(model.name) is model,
                )
            )
        return found
