"""The FastAPI application around an engine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from ovseg_ray import __version__
from ovseg_ray.serving.engine import Engine
from ovseg_ray.serving.middleware import RequestIds
from ovseg_ray.serving.problems import MEDIA_TYPE, ProblemError
from ovseg_ray.serving.requests import invalid
from ovseg_ray.serving.routes import health, images, models, segment, vocabularies

PAGE = Path(__file__).parent / "page"
ROUTERS = (segment.router, images.router, vocabularies.router, models.router, health.router)
_OF_STATUS = {404: "not_found", 405: "method_not_allowed", 406: "not_acceptable", 413: "body_too_large"}
logger = logging.getLogger("ovseg_ray.serving")


def create_app(engine: Engine) -> FastAPI:
    """The endpoint as an ASGI application.

    A router is a module in `routes/` with a line in `ROUTERS`; it finds the engine by `routes.EngineDep`. Files in
    `page/` are served below `/`, `index.html` at `/` itself.
    """
    app = FastAPI(
        title="ovseg-ray",
        version=__version__,
        description="Open-vocabulary segmentation: pictures and words in, masks out.",
        openapi_url="/openapi.json",
        redoc_url=None,
    )
    app.state.engine = engine
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    app.add_middleware(RequestIds)
    app.add_exception_handler(ProblemError, _handler(lambda error: error))
    app.add_exception_handler(RequestValidationError, _handler(lambda error: invalid(error.errors())))
    app.add_exception_handler(HTTPException, _handler(_of_http))
    app.add_exception_handler(Exception, _handler(_of_fault))
    return app


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


def _of_http(error: HTTPException) -> ProblemError:
    code = _OF_STATUS.get(error.status_code, "invalid_request" if error.status_code < 500 else "internal")
    detail = str(error.detail) if code == "invalid_request" else "see /docs for what there is"
    return ProblemError(code, detail)


def _of_fault(error: Exception) -> ProblemError:
    logger.error("fault", exc_info=error)
    return ProblemError("internal", "the server's log says more under this request id")
