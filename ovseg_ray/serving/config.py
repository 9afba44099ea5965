"""Configuration of an endpoint: which models, how much of everything, who may ask. Imports neither torch nor Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from ovseg_ray.config import Config, Precision
from ovseg_ray.serving.api import IDENTIFIER

MIB = 2**20
ImageFormat = Literal["JPEG", "PNG", "WEBP", "BMP", "TIFF"]
TokenHash = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}:[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=IDENTIFIER)]


class ServedModelConfig(Config):
    """One version of one model."""

    run: str = Field(description="a finished run, or its model directory; on a cluster, on storage that all nodes see")
    name: Name | None = Field(None, description="what clients call it; null: the name of the run's directory")
    version: Name | None = Field(None, description="null: a hash of the model's files")
    device: str | None = Field(None, description="a PyTorch device; null: a GPU if the replica has one")
    precision: Precision = Field("fp32", description="of the image network; scores stay fp32")


class LimitsConfig(Config):
    """What a single request may cost."""

    body_bytes: int = Field(64 * MIB, ge=1024, description="of a request")
    pixels: int = Field(50_000_000, ge=1, description="of a picture, as its header says, before it is decoded")
    held_pixels: int = Field(
        100_000_000, ge=1, description="of pictures that a replica has decoded and not answered; others wait undecoded"
    )
    batch_images: int = Field(256, ge=1, description="pictures of one request")
    labels: int = Field(65_535, ge=1, le=65_535, description="of one request")
    prompts: int = Field(1_000_000, ge=1, description="of one vocabulary: its synonyms times its templates")
    requests: int = Field(64, ge=1, description="of a replica at a time, waiting ones included; more get 429")
    deadline_ms: int = Field(60_000, ge=1, description="of requests that name none, and the most that any may name")
    formats: list[ImageFormat] = Field(["JPEG", "PNG", "WEBP"], min_length=1, description="of pictures")
    url_hosts: list[str] = Field([], description="hosts that pictures are fetched from over https; none: no fetching")


class ImageStoreConfig(Config):
    """Uploaded pictures and their encodings."""

    bytes: int = Field(1024 * MIB, ge=0, description="kept in all; the least recently used go first")
    ttl_s: float = Field(900.0, gt=0, description="seconds after its last use that a picture is forgotten")


class BatchingConfig(Config):
    """Pictures that go through a model together."""

    max_images: int = Field(16, ge=1, description="of one batch")
    memory_bytes: int | None = Field(
        None, ge=MIB, description="that batches may take together; null: a quarter of free memory, half of a GPU's"
    )


class TilesConfig(Config):
    """Pictures that are too large to go through a network whole: windows, their scores blended."""

    above_pixels: int = Field(2_000_000, ge=1, description="of the network's input, from which on there are windows")
    side: int = Field(1024, ge=64, description="of a window, in pixels")
    overlap: int = Field(128, ge=0, description="of neighbouring windows, in pixels; at most a quarter of the side")


class ScalingConfig(Config):
    """Replicas of an endpoint; changing it starts them anew, changing `ServingConfig` does not."""

    min_replicas: int = Field(1, ge=0, description="0: none while nobody asks; the first request then waits for one")
    max_replicas: int = Field(1, ge=1)
    target_requests: float = Field(
        8.0, gt=0, description="of a replica, waiting ones included; more of them in all and replicas are added"
    )
    upscale_delay_s: float = Field(2.0, ge=0)
    downscale_delay_s: float = Field(60.0, ge=0)
    drain_s: float = Field(60.0, ge=0, description="that a replica has to finish its requests before it ends")
    num_cpus: float = Field(1.0, gt=0, description="of a replica, as many threads as whole ones")
    num_gpus: float = Field(0.0, ge=0, description="of a replica")

    @model_validator(mode="after")
    def _ordered(self) -> ScalingConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas = {self.min_replicas} is more than max_replicas = {self.max_replicas}")
        return self


class ServingConfig(Config):
    """An endpoint."""

    models: list[ServedModelConfig] = Field(min_length=1, description="the first answers when no model is named")
    limits: LimitsConfig = LimitsConfig()
    images: ImageStoreConfig = ImageStoreConfig()
    batching: BatchingConfig = BatchingConfig()
    tiles: TilesConfig = TilesConfig()
    tokens: list[TokenHash] = Field([], description="SHA-256 of bearer tokens, as NAME:HEX; none: everybody may ask")

    @field_validator("models")
    @classmethod
    def _distinct(cls, models: list[ServedModelConfig]) -> list[ServedModelConfig]:
        runs = [(model.run, model.name, model.version) for model in models]
        for run in runs:
            if runs.count(run) > 1:
                raise ValueError(f"{run[0]} stands twice; remove one of them or give it another name")
        return models
