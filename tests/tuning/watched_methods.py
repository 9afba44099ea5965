"""LSeg and STEGO as they are, but for what shows that a sweep does their work once: found by Ray's workers by name."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from colour_training import LABELS
from torch import Tensor

import ovseg_ray.methods.registry as registry
import ovseg_ray.vocabulary.encoders as encoders
from ovseg_ray.methods.lseg import LSeg
from ovseg_ray.methods.stego import Stego, StegoConfig
from ovseg_ray.networks.frozen import FrozenBackbone
from ovseg_ray.tuning.trial import TrialJob, run_trial
from ovseg_ray.vocabulary.table_encoder import TableTextEncoder

METHODS = {"lseg": "watched_methods:WatchedLSeg", "stego": "watched_methods:StoredStego"}
TEMPLATES = ("{}", "a {} block")


class WatchedTower(TableTextEncoder):
    """Random vectors; every text that it encodes, in whatever process, becomes a line of a file of its own."""

    def __init__(self, marks: str) -> None:
        prompts = [template.replace("{}", label) for label in LABELS for template in TEMPLATES]
        super().__init__(prompts, torch.randn(len(prompts), 16, generator=torch.Generator().manual_seed(5)))
        self._marks = Path(marks)

    def encode(self, texts: Sequence[str]) -> Tensor:
        (self._marks / f"{time.time_ns()}").write_text("".join(f"{text}\n" for text in texts))
        return super().encode(texts)


class WatchedLSeg(LSeg):
    """Whoever imports it knows the tower, too."""


class StoredStego(Stego):
    """Its backbone refuses to run."""

    def __init__(self, config: StegoConfig, backbone: FrozenBackbone | None = None) -> None:
        super().__init__(config, backbone)
        self.backbone.register_forward_pre_hook(_refuse)


def _refuse(*_: Any) -> None:
    raise AssertionError("the backbone ran")


def watched_trial(config: dict[str, Any], job: TrialJob) -> None:
    """A whole training of one of these."""
    registry._METHODS.update(METHODS)
    run_trial(config, job)


encoders._BUILDERS["watched"] = WatchedTower
