"""Vocabularies by id."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from ovseg_ray.serving.api import IDENTIFIER, Vocabulary, VocabularyBody, VocabularyList
from ovseg_ray.serving.routes import EngineDep

router = APIRouter(tags=["vocabularies"])
Key = Annotated[str, Path(pattern=IDENTIFIER)]


@router.get("/v1/vocabularies")
async def vocabularies(engine: EngineDep) -> VocabularyList:
    """All of them, without their labels."""
    return VocabularyList(vocabularies=list(await engine.vocabularies.list()))


@router.put("/v1/vocabularies/{id}")
async def put(id: Key, body: VocabularyBody, engine: EngineDep) -> Vocabulary:
    """Make one, or replace it."""
    return await engine.vocabularies.put(id, body, engine.config.limits)


@router.get("/v1/vocabularies/{id}")
async def get(id: Key, engine: EngineDep) -> Vocabulary:
    """One of them, with its labels."""
    return await engine.vocabularies.get(id)


@router.delete("/v1/vocabularies/{id}", status_code=204)
async def delete(id: Key, engine: EngineDep) -> Response:
    """Forget one."""
    await engine.vocabularies.delete(id)
    return Response(status_code=204)
