"""The contract of text towers: strings in, unit vectors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch


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
