"""Labels, synonyms, prompt templates, text encoders and the cache of label embeddings."""

from ovseg_ray.vocabulary.encoders import absolute_spec, build_text_encoder, load_text_encoder
from ovseg_ray.vocabulary.label_embeddings import LabelEmbeddings
from ovseg_ray.vocabulary.templates import template_set
from ovseg_ray.vocabulary.text_encoder import TextEncoder
from ovseg_ray.vocabulary.vocabulary import Label, Vocabulary, shipped_sets

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
