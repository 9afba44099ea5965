"""The contract of text towers: strings in, unit vectors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from ovseg_ray.errors import UserError

MAX_BATCH = 256  # texts in one forward pass


class TextEncoder(ABC):
    """Turns strings into unit vectors of one space. Frozen: never trained, never inside a training step."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width D of its vectors."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Content hash of weights and tokenizer; embeddings are cached under it."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed strings.

        Returns:
            (N, D) float32 on the CPU, L2-normalised rows, no gradient.

        Raises:
            UserError: a text that this encoder does not know (tables), or none at all.
        """

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write all that `load_text_encoder(directory)` needs: `text.json` and safetensors, no pickle."""


def unit_vectors(texts: Sequence[str], embed: Callable[[list[str]], torch.Tensor]) -> torch.Tensor:
    """What `TextEncoder.encode` promises, of a network.

    Args:
        texts: N strings.
        embed: at most `MAX_BATCH` of them -> (n, D), any length and floating type.

    Raises:
        UserError: no texts.
    """
    texts = list(texts)
    if not texts:
        raise UserError("no texts to encode; give at least one label")
    parts = []
    for start in range(0, len(texts), MAX_BATCH):
        # a caller's autocast must not change what is cached
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            parts.append(F.normalize(embed(texts[start : start + MAX_BATCH]).float(), dim=-1))
    # joined outside of inference mode: the result may enter a loss
    with torch.no_grad():
        return torch.cat(parts)
