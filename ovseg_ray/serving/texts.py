"""Label embeddings of a model: by vocabulary, by prompt, from the cache of all replicas, and last from the tower."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovseg_ray.errors import UserError
from ovseg_ray.serving.problems import ProblemError
from ovseg_ray.vocabulary import LabelEmbeddings, TextEncoder, Vocabulary

VOCABULARIES = 64  # whole vocabularies kept on the model's device
ROWS = 200_000  # labels of all of them together


@dataclass(frozen=True)
class SharedPrompts:
    """The cache that replicas share.

    Attributes:
        get: vectors of the prompts that are known; (fingerprint of the encoder, prompts) to bytes of float32.
        put: make vectors known to all.
    """

    get: Callable[[str, Sequence[str]], Mapping[str, bytes]]
    put: Callable[[str, Mapping[str, bytes]], None]


class SharedTextEncoder(TextEncoder):
    """A text tower that is asked only for what no replica has encoded yet.

    Args:
        tower: the encoder itself.
        shared: the cache of all replicas.

    Attributes:
        encoded: prompts that went through this replica's tower.
    """

    def __init__(self, tower: TextEncoder, shared: SharedPrompts) -> None:
        self._tower, self._shared = tower, shared
        self.encoded = 0

    @property
    def dim(self) -> int:
        return self._tower.dim

    @property
    def fingerprint(self) -> str:
        return self._tower.fingerprint

    def save(self, directory: Path) -> None:
        self._tower.save(directory)

    def encode(self, texts: Sequence[str]) -> Tensor:
        known = dict(self._shared.get(self.fingerprint, texts))
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        if missing:
            rows = self._tower.encode(missing).numpy()
            self.encoded += len(missing)
            fresh = {text: row.tobytes() for text, row in zip(missing, rows, strict=True)}
            self._shared.put(self.fingerprint, fresh)
            known |= fresh
        stacked = b"".join(known[text] for text in texts)
        return torch.from_numpy(np.frombuffer(stacked, np.float32).reshape(len(texts), -1).copy())


@dataclass(frozen=True)
class TextSide:
    """Labels as vectors.

    Attributes:
        vectors: (N, D) float32 on the model's device.
        known: prompts whose vectors were known.
        encoded: prompts that went through the tower.
        fingerprint: of the vocabulary.
    """

    vectors: Tensor
    known: int
    encoded: int
    fingerprint: str


class Texts:
    """Vectors of vocabularies; safe to share between threads.

    Args:
        tower: of the model.
        device: of the model.
        shared: the cache of all replicas.
    """

    def __init__(self, tower: TextEncoder, device: torch.device, shared: SharedPrompts) -> None:
        self._encoder = SharedTextEncoder(tower, shared)
        self._embeddings = LabelEmbeddings(self._encoder)
        self._device = device
        self._kept: OrderedDict[Vocabulary, TextSide] = OrderedDict()
        self._rows = 0
        self._lock = threading.Lock()

    def known(self, vocabulary: Vocabulary) -> TextSide | None:
        """Vectors of a vocabulary that was asked for of late; quick."""
        found = self._kept.get(vocabulary)
        with contextlib.suppress(KeyError):  # another thread may have let it go meanwhile
            self._kept.move_to_end(vocabulary)
        return found

    def embed(self, vocabulary: Vocabulary) -> TextSide:
        """Vectors of a vocabulary.

        Raises:
            ProblemError: a label that the text tower does not know.
        """
        with self._lock:
            if (found := self.known(vocabulary)) is not None:
                return found
            before = self._encoder.encoded
            try:
                vectors = self._embeddings.embed(vocabulary).to(self._device)
            except UserError as error:
                raise ProblemError("invalid_labels", str(error)) from error
            encoded = self._encoder.encoded - before
            prompts = sum(len(label.synonyms) for label in vocabulary.labels) * len(vocabulary.templates)
            # a thousand labels take milliseconds to hash: once, not in every answer
            fingerprint = vocabulary.fingerprint
            self._kept[vocabulary] = TextSide(vectors, prompts, 0, fingerprint)
            self._rows += len(vectors)
            while len(self._kept) > 1 and (len(self._kept) > VOCABULARIES or self._rows > ROWS):
                self._rows -= len(self._kept.popitem(last=False)[1].vectors)
        return TextSide(vectors, prompts - encoded, encoded, fingerprint)
