"""Sample pictures for the page."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, Field

from ovseg_ray.serving.samples import SCENES, sample

router = APIRouter(prefix="/samples", include_in_schema=False)
Number = Annotated[int, Path(ge=0, lt=len(SCENES))]


class SampleInfo(BaseModel):
    """One picture."""

    url: str = Field(description="relative to the page")
    caption: str
    labels: list[str] = Field(description="worth asking for")


class SampleList(BaseModel):
    """Answer of `GET /samples`."""

    samples: list[SampleInfo]


@router.get("")
def samples() -> SampleList:
    """All of them."""
    found = [(number, sample(number)) for number in range(len(SCENES))]
    return SampleList(
        samples=[SampleInfo(url=f"samples/{n}.png", caption=s.caption, labels=list(s.labels)) for n, s in found]
    )


@router.get("/{number}.png")
def picture(number: Number) -> Response:
    """One of them."""
    return Response(sample(number).png, media_type="image/png", headers={"cache-control": "max-age=86400"})
