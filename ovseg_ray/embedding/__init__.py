"""Embedding images with a frozen backbone on Ray Data, into a feature store."""

from ovseg_ray.embedding.config import EmbedConfig
from ovseg_ray.embedding.job import embed

__all__ = ["EmbedConfig", "embed"]
