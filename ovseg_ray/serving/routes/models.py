"""What is served."""

from __future__ import annotations

from fastapi import APIRouter

from ovseg_ray.serving.api import ModelList
from ovseg_ray.serving.routes import EngineDep

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def models(engine: EngineDep) -> ModelList:
    """Models and their versions; the first answers when none is named."""
    return ModelList(models=engine.models.describe())
