"""The description of the API at `/openapi.json`: what FastAPI derives, and the bodies that routes read themselves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from ovseg_ray.serving.api import BatchLine, Problem, SegmentRequest, UploadRequest
from ovseg_ray.serving.problems import MEDIA_TYPE
from ovseg_ray.serving.protocols import HubRequest, InferRequest

REF = "#/components/schemas/{model}"
# a picture of two pixels, for examples that work as they stand
TINY = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAAD0lEQVR4nGP4//8/AwMDAA74Av7Ji4P1AAAAAElFTkSuQmCC"


def describe(app: FastAPI) -> dict[str, Any]:
    """What `/openapi.json` says."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        bodies = [(model, "validation") for model in (SegmentRequest, UploadRequest, InferRequest, HubRequest)]
        answers = [(model, "serialization") for model in (Problem, BatchLine)]
        # a list of pairs is what pydantic takes; mypy widens the modes to str
        _, definitions = models_json_schema([*bodies, *answers], ref_template=REF)  # type: ignore[list-item]
        schemas |= definitions["$defs"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        problem = {"description": "A problem", "content": {MEDIA_TYPE: {"schema": ref(Problem)}}}
        for methods in document["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = problem
        app.openapi_schema = document
    return app.openapi_schema


def ref(model: type) -> dict[str, str]:
    """A reference to a model that `describe` defines."""
    return {"$ref": REF.format(model=model.__name__)}
