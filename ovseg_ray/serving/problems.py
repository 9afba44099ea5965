"""Errors as clients see them: RFC 9457 problem details with a stable code. Imports neither torch nor Ray."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ovseg_ray.serving.api import Problem

MEDIA_TYPE = "application/problem+json"

# code: (HTTP status, title); codes are part of the API and never change their meaning
CODES: dict[str, tuple[int, str]] = {
    "invalid_request": (400, "The request cannot be read"),
    "unauthorized": (401, "A valid bearer token is needed"),
    "url_not_allowed": (403, "Pictures are not fetched from there"),
    "not_found": (404, "There is nothing at this address"),
    "model_not_found": (404, "No such model"),
    "vocabulary_not_found": (404, "No such vocabulary"),
    "image_not_found": (404, "No such picture"),
    "method_not_allowed": (405, "This address does not take that method"),
    "not_acceptable": (406, "The answer does not come in that form"),
    "vocabulary_read_only": (409, "This vocabulary comes with the program"),
    "body_too_large": (413, "The request is too large"),
    "image_too_large": (413, "The picture is too large"),
    "too_many_labels": (413, "Too many labels for this picture"),
    "unsupported_media_type": (415, "This content type is not taken"),
    "unsupported_format": (415, "Pictures of this format are not taken"),
    "invalid_parameter": (422, "A parameter is wrong"),
    "invalid_labels": (422, "The labels cannot be used"),
    "invalid_image": (422, "The picture cannot be read"),
    "overloaded": (429, "Too many requests are waiting"),
    "internal": (500, "A fault of the server"),
    "fetch_failed": (502, "The picture could not be fetched"),
    "unavailable": (503, "Not ready"),
    "deadline_exceeded": (504, "The deadline has passed"),
    "storage_full": (507, "There is no room for it"),
}


@dataclass
class ProblemError(Exception):
    """What a request ends with instead of an answer.

    Attributes:
        code: a key of `CODES`.
        detail: one line for the client; never holds paths or other internals.
        retry_after: seconds after which trying again makes sense.
        errors: each wrong value.
    """

    code: str
    detail: str
    retry_after: float | None = None
    errors: list[dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        self.detail = self.detail.encode("utf-8", "replace").decode()  # JSON of a client may hold half a character
        Exception.__init__(self, self.code, self.detail, self.retry_after, self.errors)  # so that it pickles

    @property
    def status(self) -> int:
        """HTTP status."""
        return CODES[self.code][0]

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that belong to it."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="ovseg-ray"'
        return headers

    def problem(self, request_id: str = "") -> Problem:
        """The body of the answer."""
        return Problem(
            type=f"urn:ovseg-ray:problem:{self.code}",
            title=CODES[self.code][1],
            status=self.status,
            detail=self.detail,
            code=self.code,
            request_id=request_id,
            errors=self.errors,
        )
