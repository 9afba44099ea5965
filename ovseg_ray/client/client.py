"""The client itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from pydantic import ValidationError

from ovseg_ray.client.errors import EndpointError
from ovseg_ray.client.pictures import file_of
from ovseg_ray.client.transport import Transport
from ovseg_ray.errors import UserError
from ovseg_ray.serving.api import (
    BatchLine,
    MaskFormat,
    ModelInfo,
    ModelList,
    Parameters,
    Part,
    SegmentResponse,
    UploadResponse,
    Vocabulary,
    VocabularyBody,
    VocabularyEntry,
    VocabularyList,
)
from ovseg_ray.validation import mistakes

if TYPE_CHECKING:
    from ovseg_ray.client.pictures import Picture

Labels = str | Sequence[str | Sequence[str]]
JSON = {"Content-Type": "application/json"}
RAW = {"Content-Type": "application/octet-stream"}


class Client:
    """Asks an endpoint of `ovseg-ray serve`. May be shared between threads.

    Args:
        url: such as http://127.0.0.1:8000.
        token: a bearer token, where the endpoint wants one.
        timeout: seconds that the server may be silent.
        retries: times that a request is sent again while the server is busy (429, 503: after the time that it asks
            for), when the connection breaks, or when a proxy answers 500 or 502 in the endpoint's place because the
            replica died. All requests may be repeated; a picture that was uploaded twice is forgotten once.

    Raises:
        UserError: not a URL.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", *, token: str | None = None, timeout: float = 120.0, retries: int = 5
    ) -> None:
        self._transport = Transport(url, token, timeout, retries)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    # ---- pictures and words
    def segment(
        self,
        picture: Picture | UploadResponse,
        labels: Labels | None = None,
        *,
        vocabulary: str | None = None,
        model: str | None = None,
        threshold: float = 0.0,
        background: str = "void",
        parts: Sequence[Part] = ("segments",),
        mask_format: MaskFormat = "rle",
        top_k: int | None = None,
        deadline_ms: int | None = None,
    ) -> SegmentResponse:
        """Label every pixel with the best of the labels.

        Args:
            picture: path, bytes of a file, PIL image, array (H, W, 3) uint8, or what `upload` returned.
            labels: "sky, car|automobile", or a list of names and of lists of synonyms.
            vocabulary: id of a vocabulary, instead of labels.
            model: "NAME" or "NAME@VERSION"; default: that of the upload, else the endpoint's first.
            threshold: pixels less confident than this become `background`.
            background: "void", "argmax" or one of the labels.
            parts: what the answer holds: segments, label_map, confidence, overlay.
            mask_format: of segments: "rle", "png" or "polygon".
            top_k: at most so many segments.
            deadline_ms: give up after this.

        Raises:
            UserError: a picture that cannot be read, or parameters that cannot be meant.
            EndpointError: refused, or not reached.
        """
        asked = _parameters(
            labels, vocabulary, model, threshold, background, parts, mask_format, top_k, deadline_ms
        )  # fmt: skip
        if not isinstance(picture, UploadResponse):
            return self._segment({"inputs": _base64(picture)}, asked)
        uploaded = {"image_id": picture.id}
        if model is not None:
            return self._segment(uploaded, asked)
        try:
            return self._segment(uploaded, {**asked, "model": f"{picture.model}@{picture.version}"})
        except EndpointError as error:
            if error.code != "model_not_found":
                raise
            # another version stands there now: it encodes the picture anew
            return self._segment(uploaded, {**asked, "model": picture.model})

    def _segment(self, picture: dict[str, str], parameters: dict[str, Any]) -> SegmentResponse:
        body = {**picture, "parameters": parameters}
        return SegmentResponse.model_validate_json(self._post("/v1/segment", body))

    def segment_many(
        self,
        pictures: Iterable[Picture],
        labels: Labels | None = None,
        *,
        vocabulary: str | None = None,
        model: str | None = None,
        threshold: float = 0.0,
        background: str = "void",
        parts: Sequence[Part] = ("segments",),
        mask_format: MaskFormat = "rle",
        top_k: int | None = None,
        deadline_ms: int | None = None,
    ) -> Iterator[BatchLine]:
        """Segment several pictures in one request; each answer is yielded as it arrives, in any order.

        A picture that fails has `error` instead of `result`; the others are not harmed. Arguments as in `segment`.

        Raises:
            UserError: a picture that cannot be read, or parameters that cannot be meant.
            EndpointError: refused, not reached, or the answer broke off.
        """
        asked = _parameters(
            labels, vocabulary, model, threshold, background, parts, mask_format, top_k, deadline_ms
        )  # fmt: skip
        body = json.dumps({"inputs": [_base64(picture) for picture in pictures], "parameters": asked}).encode()
        for line in self._transport.lines("POST", "/v1/segment", body, JSON):
            yield BatchLine.model_validate_json(line)

    def upload(self, picture: Picture, model: str | None = None) -> UploadResponse:
        """Leave a picture at the endpoint; asking for it then costs only the text side.

        Args:
            picture: as in `segment`.
            model: that encodes it; default: the endpoint's first.

        Raises:
            UserError: a picture that cannot be read.
            EndpointError: refused, or not reached.
        """
        query = f"?{urlencode({'model': model})}" if model else ""
        return UploadResponse.model_validate_json(
            self._transport.request("POST", f"/v1/images{query}", file_of(picture), RAW)
        )

    def forget(self, picture: UploadResponse | str) -> None:
        """Forget an upload before its time.

        Raises:
            EndpointError: there is none, or not reached.
        """
        self._transport.request("DELETE", f"/v1/images/{_quoted(picture if isinstance(picture, str) else picture.id)}")

    # ---- models and vocabularies
    def models(self) -> list[ModelInfo]:
        """What is served; the first answers when none is named.

        Raises:
            EndpointError: refused, or not reached.
        """
        return ModelList.model_validate_json(self._transport.request("GET", "/v1/models")).models

    def vocabularies(self) -> list[VocabularyEntry]:
        """Ids and sizes of all vocabularies.

        Raises:
            EndpointError: refused, or not reached.
        """
        return VocabularyList.model_validate_json(self._transport.request("GET", "/v1/vocabularies")).vocabularies

    def vocabulary(self, id: str) -> Vocabulary:
        """One of them.

        Raises:
            EndpointError: there is none, or not reached.
        """
        return Vocabulary.model_validate_json(self._transport.request("GET", f"/v1/vocabularies/{_quoted(id)}"))

    def put_vocabulary(
        self, id: str, labels: Labels, *, templates: Sequence[str] | None = None, background: Sequence[str] = ()
    ) -> Vocabulary:
        """Make a vocabulary, or replace it.

        Args:
            id: letters, digits, dots, dashes and underscores.
            labels: as in `segment`.
            templates: prompts with one {} each; default: those of the model's training.
            background: labels that mean "anything else".

        Raises:
            UserError: labels that cannot be meant.
            EndpointError: refused, or not reached.
        """
        body = _checked(
            VocabularyBody, {"labels": _labels(labels), "templates": templates, "background": list(background)}
        )
        data = body.model_dump_json().encode()
        return Vocabulary.model_validate_json(
            self._transport.request("PUT", f"/v1/vocabularies/{_quoted(id)}", data, JSON)
        )

    def delete_vocabulary(self, id: str) -> None:
        """Forget one.

        Raises:
            EndpointError: there is none, it comes with the program, or not reached.
        """
        self._transport.request("DELETE", f"/v1/vocabularies/{_quoted(id)}")

    def ready(self) -> bool:
        """Whether the endpoint takes requests."""
        try:
            self._transport.request("GET", "/readyz", retries=0)
        except EndpointError:
            return False
        return True

    def _post(self, path: str, body: dict[str, Any]) -> bytes:
        return self._transport.request("POST", path, json.dumps(body).encode(), JSON)


def _parameters(
    labels: Labels | None,
    vocabulary: str | None,
    model: str | None,
    threshold: float,
    background: str,
    parts: Sequence[Part],
    mask_format: MaskFormat,
    top_k: int | None,
    deadline_ms: int | None,
) -> dict[str, Any]:
    if (labels is None) == (vocabulary is None):
        raise UserError("give either labels or the id of a vocabulary")
    asked = {
        "candidate_labels": None if labels is None else _labels(labels),
        "vocabulary": vocabulary,
        "model": model,
        "threshold": threshold,
        "background": background,
        "return": list(parts),
        "mask_format": mask_format,
        "top_k": top_k,
        "deadline_ms": deadline_ms,
    }
    return _checked(Parameters, asked).model_dump(mode="json", by_alias=True, exclude_none=True)


def _checked(kind: Any, values: dict[str, Any]) -> Any:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(str(mistakes(error.errors(include_url=False), kind)[0])) from error


def _labels(labels: Labels) -> list[str | list[str]]:
    if not isinstance(labels, str):
        return [label if isinstance(label, str) else list(label) for label in labels]
    found: list[str | list[str]] = []
    for part in labels.split(","):
        synonyms = [name.strip() for name in part.split("|")]
        found.append(synonyms if len(synonyms) > 1 else synonyms[0])
    return found


def _base64(picture: Any) -> str:
    return base64.b64encode(file_of(picture)).decode("ascii")


def _quoted(text: str) -> str:
    return quote(text, safe="")
