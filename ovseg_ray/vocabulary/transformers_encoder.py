"""Text towers of CLIP and SigLIP as the transformers library stores them, from local directories."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor

from ovseg_ray.errors import UserError
from ovseg_ray.vocabulary.storage import content_hash, write_encoder
from ovseg_ray.vocabulary.text_encoder import TextEncoder, unit_vectors

_FILE = "tokenizer/"  # stored tensors so named are the bytes of the tokenizer's files
_VOCABULARIES = (("tokenizer.json",), ("spiece.model",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
_UNFIT = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, ImportError, AttributeError)


@dataclass(frozen=True)
class _Family:
    """How one family of models reads text.

    Attributes:
        config: class of the text tower's configuration, in transformers.
        tower: class of the text tower.
        output: what the tower calls the embedding.
        width: what its configuration calls the width of the embedding.
        padded: texts are padded to the full length, padding is attended to and upper case is not known: SigLIP was
            trained so, and reads its embedding at the last position.
    """

    config: str
    tower: str
    output: str
    width: str
    padded: bool


_CLIP = _Family("CLIPTextConfig", "CLIPTextModelWithProjection", "text_embeds", "projection_dim", padded=False)
_SIGLIP = _Family("SiglipTextConfig", "SiglipTextModel", "pooler_output", "projection_size", padded=True)
_SIGLIP2 = _Family("Siglip2TextConfig", "Siglip2TextModel", "pooler_output", "projection_size", padded=True)
_FAMILIES = {"clip_text_model": _CLIP, "siglip_text_model": _SIGLIP, "siglip2_text_model": _SIGLIP2}
_WHOLE = {"clip": "clip_text_model", "siglip": "siglip_text_model", "siglip2": "siglip2_text_model"}


class TransformersTextEncoder(TextEncoder):
    """The text tower of a CLIP or SigLIP model of the transformers library, frozen.

    Args:
        config: of the text tower; `model_type` is clip_text_model, siglip_text_model or siglip2_text_model.
        weights: state dict of the text tower; copied.
        tokenizer: the tokenizer's files, content by name.
    """

    kind = "transformers"

    def __init__(
        self, config: Mapping[str, Any], weights: Mapping[str, Tensor], tokenizer: Mapping[str, bytes]
    ) -> None:
        self._family = _FAMILIES[config["model_type"]]
        with _quiet():
            built = getattr(transformers, self._family.config)(**config)
            self._tower: Any = getattr(transformers, self._family.tower)(built)
            self._tokenizer = _tokenizer_of(tokenizer)
        self._tower.load_state_dict(dict(weights))
        self._tower.float().eval().requires_grad_(False)
        self._config, self._files = dict(config), dict(tokenizer)

    @classmethod
    def from_directory(cls, directory: str | Path) -> TransformersTextEncoder:
        """From what `save_pretrained` of a model and of its tokenizer wrote; nothing is fetched, no code of it run.

        Args:
            directory: with `config.json`, safetensors and the tokenizer's files, of a whole model or its text tower.

        Raises:
            UserError: no such directory, another kind of model, or files that are missing or do not fit.
        """
        directory = Path(directory)
        config = _text_config(directory)
        family = _FAMILIES[config["model_type"]]
        with _quiet():
            try:
                tower, info = getattr(transformers, family.tower).from_pretrained(
                    directory,
                    config=getattr(transformers, family.config)(**config),
                    local_files_only=True,
                    use_safetensors=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
            except _UNFIT as error:
                raise UserError(f"{directory}: no safetensors weights of its text tower ({_first(error)})") from error
            absent = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
            if absent:
                raise UserError(f"{directory}: its weights lack '{absent[0]}' of the text tower, or have another size")
            files = _tokenizer_files(directory)
        return cls(config, tower.state_dict(), files)

    @property
    def dim(self) -> int:
        return int(self._config[self._family.width])

    @cached_property
    def fingerprint(self) -> str:
        return content_hash(self._description, self._tensors)

    def encode(self, texts: Sequence[str]) -> Tensor:
        return unit_vectors(texts, self._embed)

    def _embed(self, texts: list[str]) -> Tensor:
        length = self._tower.config.max_position_embeddings
        if self._family.padded:
            texts = [text.lower() for text in texts]
            tokens = self._tokenizer(
                texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
            )
            # without its mask: padding was attended to in training
            found = self._tower(input_ids=tokens["input_ids"])
        else:
            tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
            found = self._tower(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        embedded: Tensor = getattr(found, self._family.output)
        return embedded

    def save(self, directory: Path) -> None:
        write_encoder(directory, self._description, self._tensors)

    @classmethod
    def restore(cls, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TransformersTextEncoder:
        """From what `save` wrote."""
        files = {k.removeprefix(_FILE): v.numpy().tobytes() for k, v in tensors.items() if k.startswith(_FILE)}
        weights = {k: v for k, v in tensors.items() if not k.startswith(_FILE)}
        return cls(description["config"], weights, files)

    @property
    def _description(self) -> dict[str, Any]:
        return {"kind": self.kind, "config": self._config}

    @property
    def _tensors(self) -> dict[str, Tensor]:
        # a tokenizer is data of megabytes: it lies beside the weights
        files = {_FILE + k: torch.from_numpy(np.frombuffer(v, np.uint8).copy()) for k, v in self._files.items()}
        return {**self._tower.state_dict(), **files}


def _text_config(directory: Path) -> dict[str, Any]:
    """Configuration of the text tower of a directory, complete and with `model_type`."""
    path = directory / "config.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        kind = described.get("model_type")
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; give a directory that holds a CLIP or SigLIP model of transformers"
        ) from error
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: is not the JSON description of a model; give another directory") from error
    if kind not in {*_WHOLE, *_FAMILIES}:
        raise UserError(f"{path}: describes a '{kind}' model; text towers of {', '.join(_WHOLE)} can be used")
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
            if kind in _WHOLE:
                projection = getattr(config, "projection_dim", None)
                config = config.text_config
                if projection is not None:  # the projection belongs to the whole model; the tower's own figure is stale
                    config.projection_dim = projection
    except _UNFIT as error:
        raise UserError(f"{path}: does not describe a {kind} model ({_first(error)})") from error
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    # where it came from and which library wrote it say nothing of what it computes
    dropped = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")
    kept = {key: value for key, value in values.items() if key not in dropped}
    return {**kept, "model_type": _WHOLE.get(kind, kind)}


def _tokenizer_files(directory: Path) -> dict[str, bytes]:
    # the library makes an empty tokenizer of nothing, for which every text is the same
    if not any(all((directory / name).is_file() for name in names) for names in _VOCABULARIES):
        raise UserError(f"{directory}: has no tokenizer (tokenizer.json, spiece.model, or vocab.json and merges.txt)")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
        with tempfile.TemporaryDirectory() as scratch:
            tokenizer.save_pretrained(scratch)
            return {path.name: path.read_bytes() for path in sorted(Path(scratch).iterdir())}
    except _UNFIT as error:
        raise UserError(f"{directory}: has no tokenizer that can be read ({_first(error)})") from error


def _tokenizer_of(files: Mapping[str, bytes]) -> Any:
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in files.items():
            (Path(scratch) / Path(name).name).write_bytes(content)
        return transformers.AutoTokenizer.from_pretrained(scratch, local_files_only=True)


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:160]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's reports of tensors that are not used, and its progress bars."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
