"""Vectors of labels, averaged over templates and synonyms, with every prompt encoded once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_ray.vocabulary.text_encoder import TextEncoder
from ovseg_ray.vocabulary.vocabulary import Label, Vocabulary

CACHED_PROMPTS = 200_000
PROMPTS_AT_ONCE = 4096  # bounds memory however long the list of labels is


class LabelEmbeddings:
    """Embeds vocabularies with one encoder; safe to share between threads.

    Args:
        encoder: where prompts go.
        max_prompts: prompts kept in memory; the least recently used are forgotten first.

    Attributes:
        encoder: as given.
        encoded: prompts that have reached the encoder so far.
    """

    def __init__(self, encoder: TextEncoder, max_prompts: int = CACHED_PROMPTS) -> None:
        self.encoder = encoder
        self.encoded = 0
        self._max_prompts = max_prompts
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()
        self._cache_lock = threading.Lock()
        self._tower_lock = threading.Lock()

    def embed(self, vocabulary: Vocabulary) -> Tensor:
        """One unit vector a label.

        Each is the normalised mean over the label's synonyms of the normalised mean over templates (the ensemble of
        CLIP, Radford et al. 2021, section 3.1.4) of the prompts' unit vectors.

        Returns:
            (N, D) float32 on the CPU, L2-normalised, no gradient.

        Raises:
            UserError: a prompt that the encoder does not know.
        """
        templates = vocabulary.templates
        return torch.cat([self._embed(chunk, templates) for chunk in _chunks(vocabulary.labels, len(templates))])

    def _embed(self, labels: Sequence[Label], templates: Sequence[str]) -> Tensor:
        synonyms = [text for label in labels for text in label.synonyms]
        prompts = [template.replace("{}", text) for text in synonyms for template in templates]
        vectors = self._lookup(prompts).view(len(synonyms), len(templates), -1)
        by_synonym = F.normalize(vectors.mean(dim=1), dim=-1)
        parts = by_synonym.split([len(label.synonyms) for label in labels])
        return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)

    def _lookup(self, prompts: list[str]) -> Tensor:
        found = self._known(prompts)
        if any(prompt not in found for prompt in prompts):
            # one thread at a time in the tower; whoever waited may find the work done
            with self._tower_lock:
                found |= self._known(prompts)
                missing = list(dict.fromkeys(prompt for prompt in prompts if prompt not in found))
                if missing:
                    found |= self._encode(missing)
        return torch.from_numpy(np.stack([found[prompt] for prompt in prompts]))

    def _known(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        with self._cache_lock:
            found = {prompt: self._cache[prompt] for prompt in prompts if prompt in self._cache}
            for prompt in found:
                self._cache.move_to_end(prompt)
        return found

    def _encode(self, prompts: list[str]) -> dict[str, np.ndarray]:
        # rows are copied: a view would keep the whole block alive after its neighbours are forgotten
        fresh = {p: row.copy() for p, row in zip(prompts, self.encoder.encode(prompts).numpy(), strict=True)}
        with self._cache_lock:
            self.encoded += len(prompts)
            self._cache.update(fresh)
            while len(self._cache) > self._max_prompts:
                self._cache.popitem(last=False)
        return fresh


def _chunks(labels: Sequence[Label], templates: int) -> Iterator[list[Label]]:
    chunk: list[Label] = []
    prompts = 0
    for label in labels:
        chunk.append(label)
        prompts += len(label.synonyms) * templates
        if prompts >= PROMPTS_AT_ONCE:
            yield chunk
            chunk, prompts = [], 0
    if chunk:
        yield chunk
