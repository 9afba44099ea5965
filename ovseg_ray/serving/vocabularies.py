"""Vocabularies that clients name by id: those that are shipped, and those they put."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from ovseg_ray.errors import UserError, did_you_mean
from ovseg_ray.serving.api import Parameters, VocabularyBody, VocabularyEntry
from ovseg_ray.serving.api import Vocabulary as StoredVocabulary
from ovseg_ray.serving.config import LimitsConfig
from ovseg_ray.serving.hub import MAX_VOCABULARIES
from ovseg_ray.serving.hub_client import HubClient
from ovseg_ray.serving.problems import ProblemError
from ovseg_ray.vocabulary import Vocabulary
from ovseg_ray.vocabulary.vocabulary import BARE, Label, shipped_sets


class Vocabularies:
    """Vocabularies by id.

    Args:
        hub: keeps those that clients put.
    """

    def __init__(self, hub: HubClient) -> None:
        self._hub = hub

    async def put(self, key: str, body: VocabularyBody, limits: LimitsConfig) -> StoredVocabulary:
        """Make or replace a vocabulary.

        Raises:
            ProblemError: a shipped one, labels that cannot be used, or too many of them.
        """
        _refuse_shipped(key)
        found = _from_body(body, key)
        check_vocabulary(found, limits)
        if not await self._hub.put_vocabulary(key, body.model_dump(mode="json")):
            raise ProblemError("storage_full", f"there are {MAX_VOCABULARIES} vocabularies; delete one first")
        return _described(key, found, body, shipped=False)

    async def get(self, key: str) -> StoredVocabulary:
        """
        Raises:
            ProblemError: there is none.
        """
        body = await self._body(key)
        return _described(key, _from_body(body, key), body, shipped=key in shipped_sets())

    async def delete(self, key: str) -> None:
        """
        Raises:
            ProblemError: a shipped one, or there is none.
        """
        _refuse_shipped(key)
        if not await self._hub.delete_vocabulary(key):
            raise _unknown(key)

    async def list(self) -> Sequence[VocabularyEntry]:
        """All of them, shipped ones first."""
        shipped = [VocabularyEntry(id=key, labels=len(_shipped(key)), shipped=True) for key in shipped_sets()]
        stored = (await self._hub.list_vocabularies()).items()
        return [*shipped, *(VocabularyEntry(id=key, labels=size, shipped=False) for key, size in sorted(stored))]

    async def asked(self, parameters: Parameters, templates: Sequence[str]) -> Vocabulary:
        """What a request asks for.

        Args:
            parameters: of the request.
            templates: that plain labels are asked with.

        Raises:
            ProblemError: nothing, both kinds, an unknown vocabulary, or labels that cannot be used.
        """
        if (parameters.vocabulary is None) == (parameters.candidate_labels is None):
            both = "both are given" if parameters.vocabulary is not None else "nothing to look for"
            raise ProblemError("invalid_labels", f"{both}; give candidate_labels or vocabulary")
        if parameters.vocabulary is not None:
            key = parameters.vocabulary
            if key in shipped_sets():
                return _shipped(key)
            return _from_body(await self._body(key), key, templates)
        assert parameters.candidate_labels is not None
        return _from_body(VocabularyBody(labels=parameters.candidate_labels), "labels", templates)

    async def _body(self, key: str) -> VocabularyBody:
        if key in shipped_sets():
            return _to_body(_shipped(key))
        stored = await self._hub.get_vocabulary(key)
        if stored is None:
            raise _unknown(key)
        return VocabularyBody.model_validate(stored)


def check_vocabulary(vocabulary: Vocabulary, limits: LimitsConfig) -> None:
    """
    Raises:
        ProblemError: more labels or prompts than are taken.
    """
    if len(vocabulary) > limits.labels:
        raise ProblemError("body_too_large", f"{len(vocabulary)} labels, at most {limits.labels} at once")
    prompts = sum(len(label.synonyms) for label in vocabulary.labels) * len(vocabulary.templates)
    if prompts > limits.prompts:
        raise ProblemError(
            "body_too_large", f"{prompts} prompts (synonyms times templates), at most {limits.prompts} at once"
        )


def _unknown(key: str) -> ProblemError:
    hint = did_you_mean(key, shipped_sets(), "see /v1/vocabularies")
    return ProblemError("vocabulary_not_found", f'no vocabulary "{key}"; {hint}')


def _refuse_shipped(key: str) -> None:
    if key in shipped_sets():
        raise ProblemError("vocabulary_read_only", f'"{key}" comes with the program; choose another id')


@cache
def _shipped(key: str) -> Vocabulary:
    return Vocabulary.from_yaml(shipped_sets()[key])


def _to_body(vocabulary: Vocabulary) -> VocabularyBody:
    labels = [label.name if label.synonyms == (label.name,) else [*label.synonyms] for label in vocabulary.labels]
    return VocabularyBody(
        labels=labels,
        templates=None if vocabulary.templates == BARE else list(vocabulary.templates),
        background=[label.name for label in vocabulary.labels if label.background],
    )


def _from_body(body: VocabularyBody, name: str, templates: Sequence[str] = BARE) -> Vocabulary:
    labels, background = [], set(body.background)
    for entry in body.labels:
        synonyms = (entry,) if isinstance(entry, str) else tuple(entry)
        labels.append(Label(synonyms[0], synonyms, synonyms[0] in background))
    try:
        return Vocabulary(tuple(labels), tuple(body.templates or templates), name)
    except UserError as error:
        raise ProblemError("invalid_labels", str(error).partition(": ")[2]) from error


def _described(key: str, found: Vocabulary, body: VocabularyBody, *, shipped: bool) -> StoredVocabulary:
    return StoredVocabulary(
        id=key,
        labels=list(body.labels),
        templates=body.templates,
        background=body.background,
        fingerprint=found.fingerprint,
        shipped=shipped,
    )
