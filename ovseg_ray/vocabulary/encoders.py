"""Which text encoder a specification or a directory means."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ovseg_ray.errors import UserError
from ovseg_ray.run_directory import RunDirectory
from ovseg_ray.vocabulary.storage import DESCRIPTION_FILE, TENSOR_FILE, read_encoder
from ovseg_ray.vocabulary.text_encoder import TextEncoder

# imported when first used: open_clip takes seconds, and label lists need none of it
_KINDS = {
    "open_clip": "ovseg_ray.vocabulary.open_clip_encoder:OpenClipTextEncoder",
    "transformers": "ovseg_ray.vocabulary.transformers_encoder:TransformersTextEncoder",
    "table": "ovseg_ray.vocabulary.table_encoder:TableTextEncoder",
}


def build_text_encoder(spec: str) -> TextEncoder:
    """The encoder of a specification.

    Args:
        spec: `open_clip:ARCHITECTURE:WEIGHTS` (a pretrained tag or a local file), `transformers:PATH` (the directory
            of a CLIP or SigLIP model), `table:PATH[,PATH…]` (`.npz` with names and embeddings), or `run:PATH` (a
            finished `train clip` run, or its model directory).

    Raises:
        UserError: an unknown kind, or something wrong with what it names.
    """
    kind, rest = _split(spec)
    return _BUILDERS[kind](rest)


def load_text_encoder(directory: str | Path) -> TextEncoder:
    """The encoder that `TextEncoder.save` wrote into a directory.

    Raises:
        UserError: not such a directory, or a damaged one.
    """
    directory = Path(directory)
    description, tensors = read_encoder(directory)
    kind = description.get("kind")
    if kind not in _KINDS:
        raise UserError(f"{directory / DESCRIPTION_FILE}: text encoder of unknown kind '{kind}'; update this package")
    try:
        return _encoder_class(kind).restore(description, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{directory / TENSOR_FILE}: does not fit {DESCRIPTION_FILE}; export the model again"
        ) from error


def absolute_spec(spec: str) -> str:
    """The same specification with absolute paths, so that a worker with another directory reads the same files.

    Raises:
        UserError: an unknown kind.
    """
    kind, rest = _split(spec)
    if kind == "table":
        return "table:" + ",".join(str(Path(path.strip()).absolute()) for path in rest.split(","))
    if kind in ("run", "transformers"):
        return f"{kind}:{Path(rest).absolute()}"
    name, _, weights = rest.partition(":")
    return f"open_clip:{name}:{Path(weights).absolute()}" if weights and Path(weights).exists() else spec


def _encoder_class(kind: str) -> Any:
    module, _, name = _KINDS[kind].partition(":")
    return getattr(importlib.import_module(module), name)


def _split(spec: str) -> tuple[str, str]:
    kind, _, rest = spec.partition(":")
    if kind not in _BUILDERS:
        near = difflib.get_close_matches(kind, _BUILDERS, n=1)
        hint = (
            f"did you mean '{near[0]}:…'?"
            if near
            else "write open_clip:ARCH:WEIGHTS, transformers:PATH, table:PATH or run:PATH"
        )
        raise UserError(f"text encoder '{spec}': unknown kind '{kind}'; {hint}")
    if not rest.strip():
        raise UserError(f"text encoder '{spec}': nothing after '{kind}:'; {_USAGE[kind]}")
    return kind, rest


def _open_clip(rest: str) -> TextEncoder:
    name, _, weights = rest.partition(":")
    if not weights:
        raise UserError(
            f"open_clip:{name}: names no weights, and random ones mean nothing; write open_clip:{name}:TAG or "
            f"open_clip:{name}:/path/to/weights.safetensors"
        )
    encoder: TextEncoder = _encoder_class("open_clip").pretrained(name, weights)
    return encoder


def _transformers(rest: str) -> TextEncoder:
    encoder: TextEncoder = _encoder_class("transformers").from_directory(rest)
    return encoder


def _table(rest: str) -> TextEncoder:
    encoder: TextEncoder = _encoder_class("table").from_files(path.strip() for path in rest.split(","))
    return encoder


def _run(rest: str) -> TextEncoder:
    path = Path(rest)
    for directory in (path, path / "text", path / "model" / "text"):
        if (directory / DESCRIPTION_FILE).is_file():
            return load_text_encoder(directory)
    run = RunDirectory.open(path)  # says what is wrong with a path that holds no finished run
    raise UserError(f"{run.model}: this model has no text encoder of its own; give a run of 'ovseg-ray train clip'")


_BUILDERS: dict[str, Callable[[str], TextEncoder]] = {
    "open_clip": _open_clip,
    "transformers": _transformers,
    "table": _table,
    "run": _run,
}
_USAGE = {
    "open_clip": "name an architecture and weights, such as open_clip:ViT-B-32:openai",
    "transformers": "name the directory of a CLIP or SigLIP model that transformers saved",
    "table": "name one or more .npz files, separated by commas",
    "run": "name the directory of a finished 'ovseg-ray train clip' run",
}
