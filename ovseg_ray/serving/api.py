"""What goes over the wire: requests and answers of the endpoint. Imports neither torch nor Ray.

Pictures within JSON are base64 text. Boxes are [x, y, width, height] in pixels, areas are in pixels, scores and
confidences lie in 0..1, times are in milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_LABELS = 65_535  # what a 16-bit label map holds beside its value for "no label"
MAX_DEADLINE_MS = 3_600_000
IDENTIFIER = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

Part = Literal["segments", "label_map", "confidence", "overlay"]
MaskFormat = Literal["rle", "png", "polygon"]
LabelText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]
Synonyms = Annotated[list[LabelText], Field(min_length=1, max_length=1000)]
CandidateLabels = Annotated[list[LabelText | Synonyms], Field(min_length=1, max_length=MAX_LABELS)]
Polygon = list[list[float]]


class Strict(BaseModel):
    """What clients send: an unknown key is a mistake, not a wish to be ignored."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


# ---- requests


class Parameters(Strict):
    """What is asked of a picture."""

    model: str | None = Field(
        None,
        max_length=200,
        description='"NAME", or "NAME@VERSION" for one version of it; default: the first of /v1/models',
    )
    candidate_labels: CandidateLabels | None = Field(
        None, description='labels to choose from; a list instead of a string gives synonyms: ["car", "automobile"]'
    )
    vocabulary: str | None = Field(
        None, pattern=IDENTIFIER, description="id of a vocabulary, instead of candidate_labels; see /v1/vocabularies"
    )
    threshold: float = Field(0.0, ge=0, le=1, description="pixels less confident than this become `background`")
    background: str = Field(
        "void",
        max_length=1000,
        description='what such pixels become: "void" (no label), "argmax" (the best label all the same; the '
        "threshold then drops whole segments by score), or one of the labels",
    )
    parts: list[Part] = Field(["segments"], alias="return", min_length=1, description="what the answer holds")
    mask_format: MaskFormat = Field(
        "rle", description="of segments: COCO's compressed RLE, a PNG of 0 and 255, or polygons"
    )
    top_k: int | None = Field(None, ge=1, description="at most so many segments, the largest areas first")
    deadline_ms: int | None = Field(
        None, ge=1, le=MAX_DEADLINE_MS, description="give up with 504 when the answer takes longer than this"
    )


class SegmentRequest(Strict):
    """Body of `POST /v1/segment` as JSON."""

    inputs: str | list[str] | None = Field(
        None,
        description="picture as base64 or data URI (or a URL, where the server allows its host); "
        "a list is answered as NDJSON, one line for each",
    )
    image_id: str | None = Field(None, max_length=200, description="a picture uploaded before, instead of inputs")
    parameters: Parameters = Parameters()


class UploadRequest(Strict):
    """Body of `POST /v1/images` as JSON."""

    inputs: str = Field(description="picture as base64 or data URI")
    model: str | None = Field(None, max_length=200, description="encode for this model; default: the first one")


class VocabularyBody(Strict):
    """A vocabulary: labels, how they are asked for, and what each stands for."""

    labels: CandidateLabels
    templates: list[Annotated[str, StringConstraints(max_length=1000)]] | None = Field(
        None, min_length=1, max_length=200, description='prompts with one {} each; default: "{}", those of training'
    )
    background: list[str] = Field([], max_length=MAX_LABELS, description='labels that mean "anything else"')


# ---- answers


class CocoRle(BaseModel):
    """COCO's compressed run-length encoding."""

    size: tuple[int, int] = Field(description="[height, width]")
    counts: str


class Png(BaseModel):
    """A picture."""

    png: str = Field(description="base64")


class Segment(BaseModel):
    """All pixels of one label."""

    label: str
    index: int = Field(description="of the label in what was asked; the value in `label_map`")
    score: float = Field(description="mean confidence over its pixels")
    area: int = Field(description="pixels")
    bbox: tuple[float, float, float, float] = Field(description="[x, y, width, height] in pixels")
    segmentation: CocoRle | Png | list[Polygon] = Field(
        description="rle or png: of the whole picture; polygon: [outline, hole, …] of each connected part, each ring "
        "flat [x, y, x, y, …] with (0, 0) the top left corner of the top left pixel"
    )


class LabelMap(Png):
    """The label of every pixel: an 8-bit PNG, 16-bit over 255 labels."""

    class_map: dict[str, str] = Field(description="label of each value that occurs")
    void: int = Field(description="value of pixels without a label: 255 or 65535")


class ImageInfo(BaseModel):
    """The picture that was asked about."""

    width: int
    height: int
    id: str | None = Field(None, description="if it was uploaded")


class VocabularyInfo(BaseModel):
    """The labels that were asked for."""

    id: str | None = None
    labels: int
    fingerprint: str = Field(description="hash of labels, synonyms and templates")


class Timings(BaseModel):
    """Where the time went, in milliseconds."""

    queue: float = Field(description="waiting for the model")
    image: float = Field(description="decoding, and the image network")
    text: float = Field(description="label embeddings")
    post: float = Field(description="scores at full size, masks, files")
    total: float


class CacheUse(BaseModel):
    """What was known already."""

    image: bool = Field(description="the image network did not run")
    prompts: int = Field(description="prompts whose embedding was known")
    prompts_encoded: int = Field(description="prompts that went through the text tower")


class SegmentResponse(BaseModel):
    """Answer of `POST /v1/segment`."""

    model: str
    version: str
    vocabulary: VocabularyInfo
    image: ImageInfo
    segments: list[Segment] | None = None
    label_map: LabelMap | None = None
    confidence: Png | None = Field(None, description="8-bit grey, 255 is 1")
    overlay: Png | None = None
    timings: Timings
    cache: CacheUse
    request_id: str = ""


class BatchLine(BaseModel):
    """A line of a streamed batch: `result` or `error`."""

    index: int = Field(description="of the picture in `inputs`")
    result: SegmentResponse | None = None
    error: Problem | None = None


class UploadResponse(BaseModel):
    """Answer of `POST /v1/images`."""

    id: str
    width: int
    height: int
    model: str
    version: str
    expires_in: float = Field(description="seconds; each use starts them anew")
    bytes: int = Field(description="kept for it")


class ModelInfo(BaseModel):
    """One version of one model."""

    name: str
    version: str
    method: str
    labels: list[str] = Field(description="it was trained on; it can be asked for others")
    templates: list[str]
    default: bool = Field(description="answers when no model is named")
    latest: bool = Field(description="answers when its name is given without a version")


class ModelList(BaseModel):
    """Answer of `GET /v1/models`."""

    models: list[ModelInfo]


class Vocabulary(BaseModel):
    """A vocabulary as stored."""

    id: str
    labels: list[str | list[str]]
    templates: list[str] | None
    background: list[str] = []
    fingerprint: str
    shipped: bool = Field(False, description="comes with the program and cannot be changed")


class VocabularyList(BaseModel):
    """Answer of `GET /v1/vocabularies`."""

    vocabularies: list[VocabularyEntry]


class VocabularyEntry(BaseModel):
    """One line of that list."""

    id: str
    labels: int
    shipped: bool


class Status(BaseModel):
    """Answer of `/healthz` and `/readyz`."""

    status: Literal["ok", "starting", "draining"]


class Problem(BaseModel):
    """An error, as RFC 9457 (application/problem+json)."""

    type: str = Field(description="urn:ovseg-ray:problem:CODE")
    title: str
    status: int
    detail: str
    code: str = Field(description="stable name of the error")
    request_id: str = ""
    errors: list[dict[str, Any]] | None = Field(None, description="each wrong value: where, what")


BatchLine.model_rebuild()
VocabularyList.model_rebuild()
