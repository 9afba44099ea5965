"""The question itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ovseg_ray.serving.answers import grey_png
from ovseg_ray.serving.api import BatchLine, Parameters, SegmentRequest, SegmentResponse
from ovseg_ray.serving.engine import Engine
from ovseg_ray.serving.openapi import TINY, ref
from ovseg_ray.serving.problems import ProblemError
from ovseg_ray.serving.requests import Ask, prefers, read_segment
from ovseg_ray.serving.routes import EngineDep

router = APIRouter(tags=["segment"])
NDJSON = "application/x-ndjson"


def _body() -> dict[str, Any]:
    picture = {"type": "string", "format": "binary"}
    fields = Parameters.model_json_schema()["properties"]
    form = {"image": picture, "image_id": {"type": "string"}, "parameters": {"type": "string"}}
    query = [
        {"name": name, "in": "query", "required": False, "schema": {"type": "string"}, "description": text}
        for name, text in {
            "candidate_labels": 'with a raw picture: "sky, grass, car|automobile"',
            "image_id": "an uploaded picture instead of a body",
            **{name: field.get("description", "") for name, field in fields.items() if name != "candidate_labels"},
        }.items()
    ]
    content = {
        "application/json": {
            "schema": ref(SegmentRequest),
            "example": {"inputs": TINY, "parameters": {"candidate_labels": ["sky", ["car", "automobile"]]}},
        },
        "multipart/form-data": {"schema": {"type": "object", "properties": form}},
        "image/*": {"schema": picture},
    }
    return {"parameters": query, "requestBody": {"required": False, "content": content}}


_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            NDJSON: {"schema": ref(BatchLine)},
        }
    }
}


@router.post("/v1/segment", response_model=SegmentResponse, responses=_ANSWERS, openapi_extra=_body())
async def segment(request: Request, engine: EngineDep) -> Response:
    """Label every pixel with the best of the labels asked for.

    `Accept: image/png` gives the bare label map. A list of pictures is answered as NDJSON, a line for each as it is
    done.
    """
    with contextlib.ExitStack() as admission:
        admission.enter_context(engine.admitted())
        ask = await read_segment(request, engine.config.limits)
        if not ask.many:
            return await _one(ask, engine, request)
        return _Stream(_lines(ask, engine, request.state.request_id), admission.pop_all())


async def _one(ask: Ask, engine: Engine, request: Request) -> Response:
    bare = prefers(request.headers.get("accept", ""), "image/png", "application/json")
    parameters = ask.parameters.model_copy(update={"parts": []}) if bare else ask.parameters
    answer = await engine.segment(ask.pictures[0] if ask.pictures else None, ask.image_id, parameters)
    if bare:
        return Response(await asyncio.to_thread(grey_png, answer.label_map), media_type="image/png")
    answer.response.request_id = request.state.request_id
    return Response(answer.response.model_dump_json(exclude_none=True), media_type="application/json")


class _Stream(StreamingResponse):
    """Lines of a request that stays admitted until the last of them, or until the client has gone."""

    def __init__(self, lines: AsyncGenerator[str], admission: contextlib.ExitStack) -> None:
        super().__init__(lines, media_type=NDJSON)
        self._lines, self._admission = lines, admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._admission:
            async with contextlib.aclosing(self._lines):
                await super().__call__(scope, receive, send)


async def _lines(ask: Ask, engine: Engine, request_id: str) -> AsyncGenerator[str]:
    async with contextlib.aclosing(engine.segment_many(ask.pictures, ask.parameters)) as found:
        async for index, answer in found:
            if isinstance(answer, ProblemError):
                line = BatchLine(index=index, error=answer.problem(request_id))
            else:
                answer.response.request_id = request_id
                line = BatchLine(index=index, result=answer.response)
            yield line.model_dump_json(exclude_none=True) + "\n"
