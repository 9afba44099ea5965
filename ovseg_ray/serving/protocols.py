"""Requests and answers of the other protocols: the Open Inference Protocol and Hugging Face's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from ovseg_ray.serving.api import IDENTIFIER, CandidateLabels, Strict

Share = Annotated[float, Field(ge=0, le=1)]


# ---- Open Inference Protocol


class RequestInput(BaseModel):
    """A tensor that is sent."""

    name: str = Field(max_length=200)
    shape: list[int] = Field(max_length=8)
    datatype: str = Field(max_length=20)
    parameters: dict[str, Any] = {}
    data: list[Any] | None = Field(None, description="missing where it follows the JSON as bytes")


class RequestOutput(BaseModel):
    """A tensor that is wanted."""

    name: str = Field(max_length=200)
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """The JSON of an inference request."""

    id: str | None = Field(None, max_length=200)
    parameters: dict[str, Any] = {}
    inputs: list[RequestInput] = Field(max_length=16)
    outputs: list[RequestOutput] | None = Field(None, max_length=16)


# ---- Hugging Face


class HubParameters(Strict):
    """What `InferenceClient.image_segmentation` sends, and what is asked for."""

    threshold: Share | None = Field(None, description="masks with a lower score are left out")
    mask_threshold: Share | None = Field(None, description="pixels less confident than this belong to no mask")
    overlap_mask_area_threshold: Share | None = Field(None, description="changes nothing: masks never overlap")
    subtask: Literal["semantic"] | None = None
    candidate_labels: CandidateLabels | None = None
    vocabulary: str | None = Field(None, pattern=IDENTIFIER)


class HubRequest(Strict):
    """Body, as JSON."""

    inputs: str = Field(description="base64")
    parameters: HubParameters = HubParameters()


class HubSegment(BaseModel):
    """One mask."""

    score: float = Field(description="mean confidence over the pixels of the mask")
    label: str
    mask: str = Field(description="base64 of a PNG: 255 where the label is, 0 elsewhere")
