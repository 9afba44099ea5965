"""The FastAPI application around an engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from functools import cache, partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.routing import Match

from ovseg_ray import __version__
from ovseg_ray.serving import huggingface, kserve
from ovseg_ray.serving.engine import Engine
from ovseg_ray.serving.middleware import Gate
from ovseg_ray.serving.openapi import describe
from ovseg_ray.serving.page_files import PAGE, PageFiles
from ovseg_ray.serving.problems import MEDIA_TYPE, ProblemError
from ovseg_ray.serving.requests import invalid
from ovseg_ray.serving.routes import health, images, models, samples, segment, vocabularies

ROUTERS = (
    segment.router,
    images.router,
    vocabularies.router,
    models.router,
    health.router,
    samples.router,
    kserve.router,
    huggingface.router,
)
_OF_STATUS = {404: "not_found", 405: "method_not_allowed", 406: "not_acceptable", 413: "body_too_large"}
METRICS_INTERVAL_S = 10.0
logger = logging.getLogger("ovseg_ray.serving")


def create_app(engine: Engine, *, returns_request_id: bool = True) -> FastAPI:
    """The endpoint as an ASGI application.

    A router is a module in `routes/` with a line in `ROUTERS`; it finds the engine by `routes.EngineDep`. Files in
    `page/` are served below `/`, `index.html` at `/` itself.

    Args:
        engine: answers.
        returns_request_id: add the header X-Request-ID to answers; Ray Serve does so by itself.
    """
    # /docs from files of the package: no request to any other host
    app = FastAPIOffline(
        title="ovseg-ray",
        version=__version__,
        description="Open-vocabulary segmentation: pictures and words in, masks out.",
        openapi_url="/openapi.json",
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.engine = engine
    # FastAPI's documented way to extend the description is to replace the method
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/", PageFiles(), name="page")
    app.add_middleware(Gate, engine=engine, public=_is_public, returns_request_id=returns_request_id)
    app.add_exception_handler(ProblemError, _handler(lambda error: error))
    app.add_exception_handler(RequestValidationError, _handler(lambda error: invalid(error.errors())))
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(Exception, _handler(_of_fault))
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Now and then: what has expired is forgotten, and the hub is told what is served, and this replica's metrics.

    `/metrics` of any replica so shows those of all.
    """
    engine: Engine = app.state.engine

    async def report() -> None:
        while True:
            await asyncio.sleep(METRICS_INTERVAL_S)
            engine.tidy()
            with contextlib.suppress(Exception):  # the hub may be on its way back
                if engine.ready:
                    engine.tell_hub()
                await engine.hub.exchange_metrics(engine.replica, engine.metrics.families())

    task = asyncio.create_task(report())
    yield
    task.cancel()


def _is_public(path: str) -> bool:
    """The page and what describes the API hold nothing that is not in the package; who reads them needs no token."""
    if path.startswith(("/static-offline-docs/", "/samples/")):
        return True
    return path in ("", "/", "/docs", "/openapi.json", "/samples") or path.removeprefix("/") in _page_files()


@cache
def _page_files() -> frozenset[str]:
    return frozenset(file.relative_to(PAGE).as_posix() for file in PAGE.rglob("*") if file.is_file())


def problem_response(request: Request, error: ProblemError) -> JSONResponse:
    """An error as the client sees it."""
    problem = error.problem(getattr(request.state, "request_id", ""))
    return JSONResponse(
        problem.model_dump(exclude_none=True), error.status, headers=error.headers, media_type=MEDIA_TYPE
    )


def _handler(convert: Callable[[Any], ProblemError]) -> Callable[[Request, Exception], Any]:
    async def handle(request: Request, error: Exception) -> JSONResponse:
        return problem_response(request, convert(error))

    return handle


async def _http_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = error.status_code
    if status in (404, 405):
        # files of the page lie below "/" and would answer for every address: ask the routes
        known = any(route.matches(request.scope)[0] == Match.PARTIAL for route in request.app.routes)
        status = 405 if known else 404
    code = _OF_STATUS.get(status, "invalid_request" if status < 500 else "internal")
    detail = str(error.detail) if code == "invalid_request" else "see /docs for what there is"
    return problem_response(request, ProblemError(code, detail))


def _of_fault(error: Exception) -> ProblemError:
    logger.error("fault", exc_info=error)
    return ProblemError("internal", "the server's log says more under this request id")
