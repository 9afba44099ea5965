"""Labels, synonyms, prompt templates, text encoders and the cache of label embeddings."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ovseg_ray.vocabulary.templates import template_set
from ovseg_ray.vocabulary.vocabulary import Label, Vocabulary, shipped_sets

if TYPE_CHECKING:
    from ovseg_ray.vocabulary.encoders import absolute_spec, build_text_encoder, load_text_encoder
    from ovseg_ray.vocabulary.label_embeddings import LabelEmbeddings
    from ovseg_ray.vocabulary.text_encoder import TextEncoder

__all__ = [
    "Label",
    "LabelEmbeddings",
    "TextEncoder",
    "Vocabulary",
    "absolute_spec",
    "build_text_encoder",
    "load_text_encoder",
    "shipped_sets",
    "template_set",
]
# What needs PyTorch is imported late: processes that decode pictures or search neighbours start seconds sooner, and
# take a quarter of a gigabyte less.
_LATE = {
    "LabelEmbeddings": "label_embeddings",
    "TextEncoder": "text_encoder",
    "absolute_spec": "encoders",
    "build_text_encoder": "encoders",
    "load_text_encoder": "encoders",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
