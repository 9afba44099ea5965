"""The Open Inference Protocol (KServe V2) over HTTP: health, metadata, infer, with the binary tensor extension.

A thin adapter: tensors become what `/v1/segment` takes, and back. A model has

- inputs `image` BYTES [1], a picture's file (base64 where it is sent as JSON), and `labels` BYTES [N], each a label,
  synonyms as "car|automobile";
- outputs `label_map` UINT16 [H, W], indices into `labels` with 65535 for none, `confidence` FP32 [H, W] in 0..1, and
  `labels` BYTES [N].

Request parameters are those of `/v1/segment`: `threshold`, `background`, `deadline_ms`, `vocabulary` instead of
`labels`, and `image_id` instead of `image`.
"""

from __future__ import annotations

import asyncio
import json
import math
import struct
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ovseg_ray import __version__
from ovseg_ray.data.masks import ignore_value
from ovseg_ray.serving.api import MAX_LABELS, Parameters
from ovseg_ray.serving.engine import Answer
from ovseg_ray.serving.openapi import ref
from ovseg_ray.serving.problems import ProblemError
from ovseg_ray.serving.protocols import InferRequest
from ovseg_ray.serving.requests import LARGE, check_labels, validate
from ovseg_ray.serving.routes import EngineDep
from ovseg_ray.serving.routes.foreign import ErrorKeyRoute

router = APIRouter(prefix="/v2", tags=["open inference protocol"], route_class=ErrorKeyRoute)

JSON_LENGTH = "inference-header-content-length"
VOID = MAX_LABELS
MOST_JSON_PIXELS = 4_000_000  # as text they take twenty times the memory, and seconds
INPUTS = [
    {"name": "image", "datatype": "BYTES", "shape": [1]},
    {"name": "labels", "datatype": "BYTES", "shape": [-1]},
]
OUTPUTS = [
    {"name": "label_map", "datatype": "UINT16", "shape": [-1, -1]},
    {"name": "confidence", "datatype": "FP32", "shape": [-1, -1]},
    {"name": "labels", "datatype": "BYTES", "shape": [-1]},
]
PARAMETERS = ("vocabulary", "threshold", "background", "deadline_ms")
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": ref(InferRequest)},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


# ---- health and metadata


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """The process answers."""
    return {"live": True}


@router.get("/health/ready")
async def ready(engine: EngineDep) -> dict[str, bool]:
    """Models are loaded and requests are taken."""
    if not engine.ready:
        raise ProblemError("unavailable", "no request is taken at the moment", retry_after=1.0)
    return {"ready": True}


@router.get("")
async def server() -> dict[str, Any]:
    """What answers here."""
    return {"name": "ovseg-ray", "version": __version__, "extensions": ["binary_tensor_data"]}


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{version}/ready", include_in_schema=False)
async def model_ready(name: str, engine: EngineDep, version: str | None = None) -> dict[str, Any]:
    """A model is loaded."""
    engine.models.get(_key(name, version))
    return {"name": name, "ready": True}


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{version}", include_in_schema=False)
async def model(name: str, engine: EngineDep, version: str | None = None) -> dict[str, Any]:
    """Tensors of a model."""
    engine.models.get(_key(name, version))
    versions = [found.version for found in engine.models if found.name == name]
    return {"name": name, "versions": versions, "platform": "ovseg_ray", "inputs": INPUTS, "outputs": OUTPUTS}


# ---- inference


@router.post("/models/{name}/infer", openapi_extra=BODY)
@router.post("/models/{name}/versions/{version}/infer", include_in_schema=False)
async def infer(name: str, request: Request, engine: EngineDep, version: str | None = None) -> Response:
    """Label every pixel with the best of the labels."""
    with engine.admitted():
        body, length = await request.body(), request.headers.get(JSON_LENGTH)
        asked, tensors = await asyncio.to_thread(read, body, length) if len(body) > LARGE else read(body, length)
        wanted = _outputs(asked)
        image_id, parameters = _parameters(asked, tensors, _key(name, version))
        check_labels(parameters, engine.config.limits)
        answer = await engine.segment(_image(tensors, image_id), image_id, parameters)
        return await asyncio.to_thread(_respond, asked, wanted, answer)


def read(body: bytes, json_length: str | None) -> tuple[InferRequest, dict[str, list[bytes | str]]]:
    """A request and the elements of each input: text where they came as JSON, bytes where they followed it.

    Raises:
        ProblemError: it does not follow the protocol.
    """
    length = len(body)
    if json_length is not None:
        if not json_length.isdecimal() or int(json_length) > len(body):
            raise ProblemError("invalid_request", f"{JSON_LENGTH} must be at most the length of the body")
        length = int(json_length)
    try:
        asked = validate(InferRequest, json.loads(body[:length]))
    except (ValueError, RecursionError) as error:
        raise ProblemError("invalid_request", f"the body is not JSON ({str(error)[:100]})") from error
    rest = body[length:]
    tensors: dict[str, list[bytes | str]] = {}
    for tensor in asked.inputs:
        if tensor.name not in ("image", "labels"):
            raise ProblemError("invalid_parameter", f"input {tensor.name}: there are image and labels")
        if tensor.datatype != "BYTES":
            raise ProblemError("invalid_parameter", f"input {tensor.name}: {tensor.datatype}; send BYTES")
        found: list[bytes | str]
        if tensor.data is None:
            size = tensor.parameters.get("binary_data_size")
            if not isinstance(size, int) or not 0 <= size <= len(rest):
                raise ProblemError(
                    "invalid_request", f"input {tensor.name}: neither data nor a fitting binary_data_size"
                )
            found, rest = list(elements(rest[:size], tensor.name)), rest[size:]
        else:
            found = _flat(tensor.data, tensor.name)
        if len(found) != math.prod(tensor.shape):
            raise ProblemError(
                "invalid_request",
                f"input {tensor.name}: {len(found)} elements, shape {tensor.shape} has another number",
            )
        tensors[tensor.name] = found
    return asked, tensors


def elements(data: bytes, name: str) -> list[bytes]:
    """Elements of a BYTES tensor: each its length as four bytes, little-endian, then itself.

    Raises:
        ProblemError: the lengths do not add up.
    """
    found, at = [], 0
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        found.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(data):
        raise ProblemError("invalid_request", f"input {name}: the lengths of its elements do not add up")
    return found


def _flat(data: list[Any], name: str) -> list[bytes | str]:
    found: list[bytes | str] = []
    for value in data:
        for element in value if isinstance(value, list) else [value]:
            if not isinstance(element, str):
                raise ProblemError("invalid_request", f"input {name}: its data must be text")
            found.append(element)
    return found


def _image(tensors: dict[str, list[bytes | str]], image_id: str | None) -> bytes | str | None:
    found = tensors.get("image", [])
    if len(found) + (image_id is not None) != 1:
        raise ProblemError("invalid_request", "give one image, or the parameter image_id instead")
    return found[0] if found else None


def _parameters(
    asked: InferRequest, tensors: dict[str, list[bytes | str]], model: str
) -> tuple[str | None, Parameters]:
    given = {key: value for key, value in asked.parameters.items() if key != "binary_data_output"}
    image_id = given.pop("image_id", None)
    unknown = [key for key in given if key not in PARAMETERS]
    if unknown or not isinstance(image_id, str | None):
        raise ProblemError(
            "invalid_parameter",
            f"parameter {(unknown or ['image_id'])[0][:100]}: there are {', '.join(PARAMETERS)} and image_id, a text",
        )
    if "labels" in tensors:
        try:
            texts = [text.decode() if isinstance(text, bytes) else text for text in tensors["labels"]]
        except UnicodeDecodeError as error:
            raise ProblemError("invalid_labels", "labels must be UTF-8") from error
        given["candidate_labels"] = [text.split("|") if "|" in text else text for text in texts]
    # `return` is no choice here: the tensors of the answer are made of its arrays
    parameters = validate(Parameters, {**given, "model": model})
    return image_id, parameters.model_copy(update={"parts": []})


def _outputs(asked: InferRequest) -> dict[str, bool]:
    """Whether each output that is wanted goes as bytes."""
    as_bytes = asked.parameters.get("binary_data_output") is True
    names = [str(output["name"]) for output in OUTPUTS]
    if asked.outputs is None:
        return dict.fromkeys(names, as_bytes)
    for output in asked.outputs:
        if output.name not in names:
            raise ProblemError("invalid_parameter", f"output {output.name}: there are {', '.join(names)}")
    return {output.name: output.parameters.get("binary_data", as_bytes) is True for output in asked.outputs}


def _respond(asked: InferRequest, wanted: dict[str, bool], answer: Answer) -> Response:
    if answer.label_map.size > MOST_JSON_PIXELS and not all(wanted.values()):
        raise ProblemError(
            "image_too_large", f"tensors of over {MOST_JSON_PIXELS} pixels do not go as JSON; ask for binary_data"
        )
    void = ignore_value(len(answer.names))
    label_map = answer.label_map.astype("<u2")
    label_map[answer.label_map == void] = VOID
    arrays = {"label_map": label_map, "confidence": answer.confidence.astype("<f4")}
    types = {str(output["name"]): output["datatype"] for output in OUTPUTS}
    outputs, parts = [], []
    for name, as_bytes in wanted.items():
        shape = [len(answer.names)] if name == "labels" else list(answer.label_map.shape)
        output: dict[str, Any] = {"name": name, "datatype": types[name], "shape": shape}
        if as_bytes:
            part = _labels_as_bytes(answer.names) if name == "labels" else arrays[name].tobytes()
            output["parameters"] = {"binary_data_size": len(part)}
            parts.append(part)
        else:
            output["data"] = list(answer.names) if name == "labels" else arrays[name].ravel().tolist()
        outputs.append(output)
    body: dict[str, Any] = {
        "model_name": answer.response.model,
        "model_version": answer.response.version,
        "outputs": outputs,
    }
    if asked.id is not None:
        body["id"] = asked.id
    if not parts:
        return JSONResponse(body)
    head = json.dumps(body).encode()
    headers = {JSON_LENGTH: str(len(head))}
    return Response(b"".join([head, *parts]), headers=headers, media_type="application/octet-stream")


def _labels_as_bytes(names: tuple[str, ...]) -> bytes:
    return b"".join(struct.pack("<I", len(name.encode())) + name.encode() for name in names)


def _key(name: str, version: str | None) -> str:
    return name if version is None else f"{name}@{version}"
