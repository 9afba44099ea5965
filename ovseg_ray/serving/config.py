"""Configuration of an endpoint: which models, how much of everything, who may ask. Imports neither torch nor Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from ovseg_ray.config import Config
from ovseg_ray.serving.api import IDENTIFIER

MIB = 2**20
ImageFormat = Literal["JPEG", "PNG", "WEBP", "BMP", "TIFF"]
Name = Annotated[str, StringConstraints(pattern=IDENTIFIER)]


class ServedModelConfig(Config):
    """One version of one model."""

    run: str = Field(description="a finished run, or its model directory; on a cluster, on storage that all nodes see")
    name: Name | None = Field(None, description="what clients call it; null: the name of the run's directory")
    version: Name | None = Field(None, description="null: a hash of the model's files")
    device: str | None = Field(None, description="a PyTorch device; null: a GPU if the replica has one")


class LimitsConfig(Config):
    """What a single request may cost."""

    body_bytes: int = Field(64 * MIB, ge=1024, description="of a request")
    pixels: int = Field(50_000_000, ge=1, description="of a picture, as its header says, before it is decoded")
    batch_images: int = Field(256, ge=1, description="pictures of one request")
    labels: int = Field(65_535, ge=1, le=65_535, description="of one request")
    deadline_ms: int = Field(60_000, ge=1, description="of requests that name none, and the most that any may name")
    formats: list[ImageFormat] = Field(["JPEG", "PNG", "WEBP"], min_length=1, description="of pictures")
    url_hosts: list[str] = Field([], description="hosts that pictures are fetched from over https; none: no fetching")


class ImageStoreConfig(Config):
    """Uploaded pictures and their encodings."""

    bytes: int = Field(1024 * MIB, ge=0, description="kept in all; the least recently used go first")
    ttl_s: float = Field(900.0, gt=0, description="seconds after its last use that a picture is forgotten")


class ServingConfig(Config):
    """An endpoint."""

    models: list[ServedModelConfig] = Field(min_length=1, description="the first answers when no model is named")
    limits: LimitsConfig = LimitsConfig()
    images: ImageStoreConfig = ImageStoreConfig()

    @field_validator("models")
    @classmethod
    def _distinct(cls, models: list[ServedModelConfig]) -> list[ServedModelConfig]:
        runs = [(model.run, model.name, model.version) for model in models]
        for run in runs:
            if runs.count(run) > 1:
                raise ValueError(f"{run[0]} stands twice; remove one of them or give it another name")
        return models
