"""Image segmentation as Hugging Face's inference API has it, for `InferenceClient(model="http://HOST/hf")`.

Masks are semantic: one for each label, never overlapping. Labels are named in the address
(`/hf?candidate_labels=sky,grass`) or in `parameters`; without any, those are asked that the model was trained on.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from ovseg_ray.serving.api import Parameters, Png
from ovseg_ray.serving.engine import Engine
from ovseg_ray.serving.openapi import ref
from ovseg_ray.serving.problems import ProblemError
from ovseg_ray.serving.protocols import HubParameters, HubRequest, HubSegment
from ovseg_ray.serving.requests import RAW, check_labels, content_type, from_fields, read_json, validate
from ovseg_ray.serving.routes import EngineDep
from ovseg_ray.serving.routes.foreign import ErrorKeyRoute

router = APIRouter(tags=["hugging face"], route_class=ErrorKeyRoute)
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": ref(HubRequest)},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.post("/hf", openapi_extra=BODY)
@router.post("/hf/{model}", openapi_extra=BODY)
async def image_segmentation(request: Request, engine: EngineDep, model: str | None = None) -> list[HubSegment]:
    """Masks of labels, the largest first."""
    with engine.admitted():
        picture, hub = await _read(request)
        parameters = _parameters(request, engine, hub, model)
        check_labels(parameters, engine.config.limits)
        answer = await engine.segment(picture, None, parameters)
    least = hub.threshold or 0.0
    return [
        HubSegment(score=segment.score, label=segment.label, mask=_png(segment.segmentation))
        for segment in answer.response.segments or []
        if segment.score >= least
    ]


async def _read(request: Request) -> tuple[bytes | str, HubParameters]:
    kind = content_type(request)
    if kind == "application/json":
        body = validate(HubRequest, await read_json(request))
        return body.inputs, body.parameters
    if kind.startswith(RAW) or not kind:
        return await request.body(), HubParameters()
    raise ProblemError("unsupported_media_type", f"{kind[:100]}: send JSON or a picture; forms go to /v1/segment")


def _parameters(request: Request, engine: Engine, hub: HubParameters, model: str | None) -> Parameters:
    image_id, asked = from_fields(request.query_params)
    if image_id is not None:
        raise ProblemError("invalid_parameter", "image_id: send the picture; uploaded ones are for /v1/segment")
    labels, vocabulary = hub.candidate_labels or asked.candidate_labels, hub.vocabulary or asked.vocabulary
    wanted = model or asked.model
    if labels is None and vocabulary is None:
        labels = _trained(engine, wanted)
    return asked.model_copy(
        update={
            "model": wanted,
            "candidate_labels": labels,
            "vocabulary": vocabulary,
            "threshold": asked.threshold if hub.mask_threshold is None else hub.mask_threshold,
            "parts": ["segments"],
            "mask_format": "png",
        }
    )


def _trained(engine: Engine, wanted: str | None) -> Any:
    model = engine.models.get(wanted)
    for info in engine.models.describe():
        if (info.name, info.version) == (model.name, model.version) and info.labels:
            return info.labels
    raise ProblemError("invalid_labels", "nothing to look for; add ?candidate_labels=sky,grass to the address")


def _png(segmentation: Any) -> str:
    assert isinstance(segmentation, Png)
    return segmentation.png
