"""Which index the neighbours are searched with."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ovseg_ray.config import Config

IndexKind = Literal["flat", "ivf", "hnsw", "ivfpq"]
RECALL_FLOOR = 0.99


class IndexConfig(Config):
    """The index of every shard; vectors have length 1 and similarity is their inner product."""

    kind: IndexKind = Field("flat", description="flat is exact; ivf, hnsw and ivfpq are approximate and need faiss")
    lists: int | None = Field(None, ge=1, description="inverted lists of a shard (ivf, ivfpq); null: 2 sqrt(rows)")
    links: int = Field(32, ge=4, description="links of a vector (hnsw)")
    build_effort: int = Field(200, ge=8, description="candidates looked at for each new vector (hnsw)")
    code_bytes: int | None = Field(None, ge=1, description="of a vector (ivfpq); null: an eighth of its numbers")
    effort: int | None = Field(
        None, ge=1, description="lists or candidates looked at in a search; null: doubled until the recall is reached"
    )
    recall_floor: float = Field(RECALL_FLOOR, ge=0, le=1, description="recall@k that an approximate index must reach")

    @property
    def exact(self) -> bool:
        """Whether the index finds the true neighbours by construction."""
        return self.kind == "flat"
