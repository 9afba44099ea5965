"""Whether the replica lives and whether it takes requests, and its metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response

from ovseg_ray.serving import metrics
from ovseg_ray.serving.api import Status
from ovseg_ray.serving.problems import ProblemError
from ovseg_ray.serving.routes import EngineDep

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Status:
    """The process answers."""
    return Status(status="ok")


@router.get("/readyz")
async def readyz(engine: EngineDep) -> Status:
    """Models are loaded and requests are taken; 503 otherwise."""
    if not engine.ready:
        raise ProblemError("unavailable", "no request is taken at the moment", retry_after=1)
    return Status(status="ok")


@router.get("/metrics", response_class=Response)
async def prometheus(engine: EngineDep) -> Response:
    """Metrics of all replicas in Prometheus's text format, told apart by the label `replica`."""
    replicas = await engine.hub.exchange_metrics(engine.replica, engine.metrics.families())
    return Response(metrics.render(replicas), media_type=metrics.CONTENT_TYPE)
