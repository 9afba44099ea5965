"""Reading requests: JSON, multipart and raw pictures become the same `Ask`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, QueryParams, UploadFile
from starlette.exceptions import HTTPException

from ovseg_ray.serving.api import Parameters, SegmentRequest
from ovseg_ray.serving.config import LimitsConfig
from ovseg_ray.serving.problems import ProblemError
from ovseg_ray.validation import mistakes

M = TypeVar("M", bound=BaseModel)
RAW = ("image/", "application/octet-stream")
LARGE = 2**18
_WEIGHT = re.compile(r"[01](\.\d{0,3})?$")
LISTS = ("candidate_labels", "return")


@dataclass(frozen=True)
class Ask:
    """A request to segment.

    Attributes:
        pictures: files, or text (base64, data URI or URL) that has not been read yet.
        image_id: of an upload, instead of pictures.
        parameters: what is asked.
        many: whether a list was given, which is answered as a stream.
    """

    pictures: tuple[bytes | str, ...]
    image_id: str | None
    parameters: Parameters
    many: bool


async def read_segment(request: Request, limits: LimitsConfig) -> Ask:
    """The request in whichever form it came.

    Raises:
        ProblemError: it cannot be read, or a parameter is wrong.
    """
    kind = content_type(request)
    if kind == "application/json":
        body = validate(SegmentRequest, await read_json(request))
        inputs = body.inputs
        pictures = tuple(inputs) if isinstance(inputs, list) else () if inputs is None else (inputs,)
        ask = Ask(pictures, body.image_id, body.parameters, isinstance(inputs, list))
    elif kind == "multipart/form-data":
        ask = await _read_form(request)
    elif kind.startswith(RAW) or not kind:
        data = await request.body()
        image_id, parameters = from_fields(request.query_params)
        ask = Ask((data,) if data else (), image_id, parameters, False)
    else:
        raise _not_taken(kind)
    return _checked(ask, limits)


async def read_picture(request: Request) -> tuple[bytes | str, dict[str, Any]]:
    """A picture to upload, and the other fields of the request.

    Raises:
        ProblemError: it cannot be read.
    """
    kind = content_type(request)
    if kind == "application/json":
        body = await read_json(request)
        if not isinstance(body, dict) or not isinstance(body.get("inputs"), str):
            raise ProblemError("invalid_request", 'the body must be {"inputs": BASE64, "model": NAME}')
        return body.pop("inputs"), body
    if kind == "multipart/form-data":
        async with request.form() as form:
            files, fields = await _files(form)
        if len(files) != 1:
            raise ProblemError("invalid_request", f"{len(files)} pictures; send one as the field image")
        return files[0], dict(fields)
    if kind.startswith(RAW) or not kind:
        return await request.body(), dict(request.query_params)
    raise _not_taken(kind)


def content_type(request: Request) -> str:
    """Media type of the body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def prefers(accept: str, wanted: str, default: str) -> bool:
    """Whether a client would rather have one media type than what it gets by default (RFC 9110, 12.5.1).

    Args:
        accept: the header.
        wanted: a media type; where both are as welcome, it must be named and the default must not.
        default: another.
    """
    weights: dict[str, float] = {}
    for entry in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in entry.split(";"))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        weights[kind] = float(weight) if _WEIGHT.match(weight) else 1.0

    def weight_of(kind: str) -> float:
        ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
        return next((weights[name] for name in ranges if name in weights), 0.0)

    if weight_of(wanted) == weight_of(default):
        return weight_of(wanted) > 0 and wanted in weights and default not in weights
    return weight_of(wanted) > weight_of(default)


async def read_json(request: Request) -> Any:
    """The body.

    Raises:
        ProblemError: it is no JSON.
    """
    try:
        body = await request.body()
        # a large one would hold all other requests up
        return json.loads(body) if len(body) < LARGE else await asyncio.to_thread(json.loads, body)
    except (ValueError, RecursionError) as error:
        raise ProblemError("invalid_request", f"the body is not JSON ({str(error)[:100]})") from error


def validate(model: type[M], value: Any) -> M:
    """A typed request.

    Raises:
        ProblemError: names what is wrong.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False), model) from error


def invalid(errors: Iterable[Any], model: type[BaseModel] | None = None) -> ProblemError:
    """The problem that pydantic's or FastAPI's errors amount to.

    Args:
        errors: as of `ValidationError.errors()`.
        model: that was wanted, where it is known.
    """
    found = mistakes(errors, model)
    detail = str(found[0]) if found[0].key else f"the body {found[0].problem}"
    parts = [{"at": mistake.key, "problem": mistake.problem} for mistake in found[:20]]
    return ProblemError("invalid_parameter", detail, errors=parts)


def from_fields(fields: QueryParams | FormData) -> tuple[str | None, Parameters]:
    """Parameters given as text, one by one or as JSON in `parameters`, and the id of an upload.

    Raises:
        ProblemError: an unknown field, or one that is wrong.
    """
    values: dict[str, Any] = {}
    for key in fields:
        texts = [text for text in fields.getlist(key) if isinstance(text, str)]
        if key == "parameters":
            values |= _parse_parameters(texts[-1])
        elif key == "candidate_labels":
            values[key] = [_synonyms(part) for text in texts for part in text.split(",")]
        elif key in LISTS:
            values[key] = [part.strip() for text in texts for part in text.split(",")]
        else:
            values[key] = texts[-1]
    image_id = values.pop("image_id", None)
    if not isinstance(image_id, str | None):
        raise ProblemError("invalid_parameter", "image_id: must be a text")
    return image_id, validate(Parameters, values)


def check_labels(parameters: Parameters, limits: LimitsConfig) -> None:
    """Before they are looked at one by one; `check_vocabulary` counts those of a vocabulary.

    Raises:
        ProblemError: too many labels.
    """
    labels = parameters.candidate_labels
    if labels is not None and len(labels) > limits.labels:
        raise ProblemError("body_too_large", f"{len(labels)} labels, at most {limits.labels} at once")


async def _read_form(request: Request) -> Ask:
    try:
        async with request.form() as form:
            files, fields = await _files(form)
    except HTTPException as error:
        raise ProblemError("invalid_request", f"the form cannot be read ({error.detail})") from error
    image_id, parameters = from_fields(fields)
    return Ask(tuple(files), image_id, parameters, len(files) > 1)


async def _files(form: FormData) -> tuple[list[bytes], FormData]:
    files: list[bytes] = []
    fields: list[tuple[str, str | UploadFile]] = []
    for key, value in form.multi_items():
        if isinstance(value, UploadFile):
            files.append(await value.read())
        elif key == "image":
            raise ProblemError("invalid_request", "the field image must be a file")
        else:
            fields.append((key, value))
    return files, FormData(fields)


def _not_taken(kind: str) -> ProblemError:
    hint = "; curl wants -H 'content-type: image/jpeg'" if kind == "application/x-www-form-urlencoded" else ""
    return ProblemError("unsupported_media_type", f"{kind[:100]}: send JSON, multipart/form-data or a picture{hint}")


def _parse_parameters(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProblemError("invalid_request", f"parameters is not JSON ({str(error)[:100]})") from error
    if not isinstance(value, dict):
        raise ProblemError("invalid_request", "parameters must be a JSON object")
    return value


def _synonyms(text: str) -> str | list[str]:
    parts = [part.strip() for part in text.split("|")]
    return parts if len(parts) > 1 else parts[0]


def _checked(ask: Ask, limits: LimitsConfig) -> Ask:
    if bool(ask.pictures) == (ask.image_id is not None):
        both = "a picture and an image_id" if ask.pictures else "no picture"
        raise ProblemError("invalid_request", f"{both}; give one picture or one image_id")
    if len(ask.pictures) > limits.batch_images:
        raise ProblemError("body_too_large", f"{len(ask.pictures)} pictures, at most {limits.batch_images} at once")
    check_labels(ask.parameters, limits)
    return ask
