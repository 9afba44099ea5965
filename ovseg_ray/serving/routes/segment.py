"""The question itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from ovseg_ray.data.sample import encode_mask
from ovseg_ray.serving import pictures
from ovseg_ray.serving.api import BatchLine, Parameters, SegmentRequest, SegmentResponse
from ovseg_ray.serving.engine import Engine
from ovseg_ray.serving.problems import ProblemError
from ovseg_ray.serving.requests import Ask, read_segment
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
        "application/json": {"schema": SegmentRequest.model_json_schema()},
        "multipart/form-data": {"schema": {"type": "object", "properties": form}},
        "image/*": {"schema": picture},
    }
    return {"parameters": query, "requestBody": {"required": False, "content": content}}


@router.post("/v1/segment", response_model=SegmentResponse, openapi_extra=_body())
async def segment(request: Request, engine: EngineDep) -> Response:
    """Label every pixel with the best of the labels asked for.

    `Accept: image/png` gives the bare label map. A list of pictures is answered as NDJSON, a line for each as it is
    done.
    """
    ask = await read_segment(request, engine.config.limits)
    if ask.many:
        return StreamingResponse(_lines(ask, engine, request.state.request_id), media_type=NDJSON)
    data = _bytes(ask.pictures[0]) if ask.pictures else None
    answer = await engine.segment(data, ask.image_id, ask.parameters)
    if "image/png" in request.headers.get("accept", ""):
        return Response(encode_mask(answer.label_map), media_type="image/png")
    answer.response.request_id = request.state.request_id
    return JSONResponse(answer.response.model_dump(exclude_none=True))


async def _lines(ask: Ask, engine: Engine, request_id: str) -> AsyncIterator[str]:
    for index, picture in enumerate(ask.pictures):
        try:
            answer = await engine.segment(_bytes(picture), None, ask.parameters)
            answer.response.request_id = request_id
            line = BatchLine(index=index, result=answer.response)
        except ProblemError as error:
            line = BatchLine(index=index, error=error.problem(request_id))
        yield line.model_dump_json(exclude_none=True) + "\n"


def _bytes(picture: bytes | str) -> bytes:
    return picture if isinstance(picture, bytes) else pictures.from_text(picture)
