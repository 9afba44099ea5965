"""A text tower whose vectors are kept on disk, so that many trainings with the same words encode them once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ovseg_ray.errors import UserError
from ovseg_ray.run_directory import write_atomically
from ovseg_ray.vocabulary.encoders import build_text_encoder
from ovseg_ray.vocabulary.text_encoder import TextEncoder


class CachedTextEncoder(TextEncoder):
    """Looks texts up on disk; the tower is built only for those that nobody encoded before, and to be saved.

    Args:
        spec: as `build_text_encoder` takes it. Vectors are kept under these words, not under the tower's weights: the
            directory must not outlive what the specification names.
        directory: shared by all that encode the same texts; files appear in it whole.
    """

    def __init__(self, spec: str, directory: Path) -> None:
        self._spec = spec
        self._directory = directory / hashlib.sha256(spec.encode()).hexdigest()[:16]
        self._vectors: dict[str, Tensor] = {}

    @cached_property
    def _tower(self) -> TextEncoder:
        return build_text_encoder(self._spec)

    @property
    def dim(self) -> int:
        self._read()
        return len(next(iter(self._vectors.values()))) if self._vectors else self._tower.dim

    @property
    def fingerprint(self) -> str:
        return self._tower.fingerprint

    def encode(self, texts: Sequence[str]) -> Tensor:
        if not texts:
            raise UserError("no texts to encode; give at least one label")
        if any(text not in self._vectors for text in texts):
            self._read()
        missing = list(dict.fromkeys(text for text in texts if text not in self._vectors))
        if missing:
            vectors = self._tower.encode(missing)
            self._vectors |= dict(zip(missing, vectors, strict=True))
            name = hashlib.sha256("\0".join(missing).encode()).hexdigest()[:16]
            content = save({"vectors": vectors.contiguous()}, {"texts": json.dumps(missing)})
            write_atomically(self._directory / f"{name}.safetensors", content)
        return torch.stack([self._vectors[text] for text in texts])

    def save(self, directory: Path) -> None:
        self._tower.save(directory)

    def _read(self) -> None:
        for path in sorted(self._directory.glob("*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    texts = json.loads(file.metadata()["texts"])
                    self._vectors |= dict(zip(texts, file.get_tensor("vectors"), strict=True))
            except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path}: is damaged ({error}); remove it, its texts are then encoded again") from error
