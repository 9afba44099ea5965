"""Addresses of the endpoint, a module for each group; `app.ROUTERS` lists them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from ovseg_ray.serving.engine import Engine


async def engine(request: Request) -> Engine:
    """The engine of this replica. Async: for a plain function FastAPI takes every request through another thread."""
    found: Engine = request.app.state.engine
    return found


EngineDep = Annotated[Engine, Depends(engine)]
