"""open_clip's own byte-pair tokenizer, one for each context length and process."""

from __future__ import annotations

import functools
from typing import Any

from open_clip import SimpleTokenizer


@functools.lru_cache(maxsize=8)
def _cached(context_length: int, options: tuple[tuple[str, Any], ...]) -> SimpleTokenizer:
    return SimpleTokenizer(context_length=context_length, **dict(options))


def open_clip_tokenizer(context_length: int, options: dict[str, Any] | None = None) -> SimpleTokenizer:
    """The tokenizer: a list of N strings becomes (N, context_length) int64, truncated at the end.

    Args:
        context_length: tokens in a text, start and end included.
        options: `tokenizer_kwargs` of an open_clip text configuration.
    """
    return _cached(context_length, tuple(sorted((options or {}).items())))
