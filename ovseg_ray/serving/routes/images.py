"""Upload once, ask many times."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from ovseg_ray.serving.api import UploadRequest, UploadResponse
from ovseg_ray.serving.openapi import TINY, ref
from ovseg_ray.serving.requests import read_picture, validate
from ovseg_ray.serving.routes import EngineDep

router = APIRouter(tags=["images"])

_PICTURE: dict[str, Any] = {"type": "string", "format": "binary"}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": ref(UploadRequest), "example": {"inputs": TINY}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": _PICTURE, "model": {"type": "string"}},
                    "required": ["image"],
                }
            },
            "image/*": {"schema": _PICTURE},
        },
    }
}


@router.post("/v1/images", status_code=201, openapi_extra=BODY)
async def upload(request: Request, engine: EngineDep) -> UploadResponse:
    """Keep a picture and all that does not depend on labels; asking for its id then costs only the text side."""
    with engine.admitted():
        picture, fields = await read_picture(request)
        asked = validate(UploadRequest, {"inputs": "", **fields})
        return await engine.upload(picture, asked.model)


@router.delete("/v1/images/{id}", status_code=204)
async def delete(id: str, engine: EngineDep) -> Response:
    """Forget a picture before its time."""
    await engine.forget(id)
    return Response(status_code=204)
