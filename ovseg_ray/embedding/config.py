"""What an embedding job computes."""

from __future__ import annotations

from pydantic import Field, model_validator

from ovseg_ray.config import Config
from ovseg_ray.data.squares import SquareConfig
from ovseg_ray.feature_store.store import Dense
from ovseg_ray.networks.frozen import BackboneConfig


class EmbedConfig(Config):
    """Everything that decides the content of a feature store, apart from the images."""

    encoder: BackboneConfig = BackboneConfig()
    squares: SquareConfig = SquareConfig()
    dense: Dense = Field("float16", description="how maps are stored; int8 states its error, none keeps vectors alone")
    vector_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of channels zeroed before pooling; the original's table was made with 0.1"
    )
    batch_size: int | None = Field(
        None, ge=1, description="squares that go through the backbone at once; null: 32 on a GPU, 8 on a CPU"
    )
    seed: int = Field(0, ge=0, description="of that dropout")

    @model_validator(mode="after")
    def _check(self) -> EmbedConfig:
        multiple = 32 if self.encoder.name in ("small", "mobilenet_v2", "resnet") else None
        if multiple and self.squares.size % multiple:
            near = max(round(self.squares.size / multiple), 1) * multiple
            raise ValueError(f"squares.size = {self.squares.size}: must be a multiple of {multiple}, such as {near}")
        return self
