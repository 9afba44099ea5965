"""Errors of routes that speak another protocol."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from ovseg_ray.serving.problems import MEDIA_TYPE, ProblemError
from ovseg_ray.serving.requests import invalid


class ErrorKeyRoute(APIRoute):
    """A problem as everywhere, with its text under `error` as well: there the clients of both protocols look."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def with_error_key(request: Request) -> Response:
            try:
                return await handle(request)
            except ProblemError as error:
                return _response(request, error)
            except RequestValidationError as error:
                return _response(request, invalid(error.errors()))

        return with_error_key


def _response(request: Request, error: ProblemError) -> JSONResponse:
    problem = error.problem(request.state.request_id).model_dump(exclude_none=True)
    return JSONResponse({"error": error.detail, **problem}, error.status, headers=error.headers, media_type=MEDIA_TYPE)
