"""What every process of a training is told, and how it makes the model and the data of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ovseg_ray.config import SourceConfig
from ovseg_ray.methods.base import Method
from ovseg_ray.run_directory import RunDirectory
from ovseg_ray.training.config import RunConfig
from ovseg_ray.training.sources import Sources, open_sources
from ovseg_ray.vocabulary import Vocabulary
from ovseg_ray.vocabulary.cached_encoder import CachedTextEncoder


@dataclass(frozen=True)
class Session:
    """One training, as it travels to workers and to the validation task.

    Attributes:
        config: with absolute paths.
        method: class of the method.
        path: the run directory, on storage that every process sees.
        label_sets: labels trained with, one set for each source; none for a method without masks.
        validation: data sets that have the validation split.
        threads: of torch in a training worker.
        provenance: what is known before training.
        restart: checkpoint to take where Ray Train knows of none.
        text_cache: directory of vectors of prompts that need not be encoded again.
        until: epoch to stop at for now; None: train to the end.
    """

    config: RunConfig
    method: type[Method]
    path: Path
    label_sets: tuple[Vocabulary, ...] = ()
    validation: tuple[SourceConfig, ...] = ()
    threads: int = 1
    provenance: dict[str, Any] = field(default_factory=dict)
    restart: Path | None = None
    text_cache: Path | None = None
    until: float | None = None

    @property
    def run(self) -> RunDirectory:
        """The run directory."""
        return RunDirectory(self.path)

    def sources(self) -> Sources:
        """The training data."""
        return open_sources(self.config.data, masks=self.method.segments)

    def model(self) -> Method:
        """The method, knowing its label sets; its weights are random, from the configured seed."""
        torch.manual_seed(self.config.training.seed)
        method = self.method(self.method.config_class.model_validate(self.config.model))
        if self.text_cache is not None and method.text_source is not None:
            method.use_text_encoder(CachedTextEncoder(method.text_source, self.text_cache))
        method.prepare(self.label_sets)
        return method
