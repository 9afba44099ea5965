"""Given vectors for given names (precomputed CLIP, word2vec, fastText) behind the contract of a text tower."""

from __future__ import annotations

import difflib
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_ray.errors import UserError
from ovseg_ray.vocabulary.storage import content_hash, write_encoder
from ovseg_ray.vocabulary.text_encoder import TextEncoder


class TableTextEncoder(TextEncoder):
    """A table of named vectors. Letter case, spaces and underscores do not matter when a text is looked up.

    Args:
        names: N strings; the first of equal ones counts.
        vectors: (N, D), any scale; rows are normalised.
        space: what space the vectors live in ("ViT-B/16"), "" where unknown.
    """

    kind = "table"

    def __init__(self, names: Sequence[str], vectors: Tensor, space: str = "") -> None:
        first: dict[str, int] = {}
        for i, name in enumerate(names):
            first.setdefault(_key(name), i)
        kept = list(first.values())
        self._rows = {key: row for row, key in enumerate(first)}
        self._names = [names[i] for i in kept]
        self._vectors = F.normalize(vectors[kept].float(), dim=-1)
        self._space = space

    @classmethod
    def from_files(cls, paths: Iterable[str | Path]) -> TableTextEncoder:
        """Join `.npz` files with `names` (N,), `embeddings` (N, D) and optionally `clip_model`.

        Where two files know a name, the first one counts.

        Raises:
            UserError: a file that cannot be read, is no such table, or lives in another space than the first.
        """
        paths = list(paths)
        tables = [_read(Path(path)) for path in paths]
        _, vectors, space = tables[0]
        for path, (_, other, other_space) in zip(paths[1:], tables[1:], strict=True):
            if other_space != space or other.shape[1] != vectors.shape[1]:
                raise UserError(
                    f"{path}: is of space '{other_space}' with {other.shape[1]} numbers a row, {paths[0]} of "
                    f"'{space}' with {vectors.shape[1]}; join tables of one text model only"
                )
        return cls([n for names, _, _ in tables for n in names], torch.cat([v for _, v, _ in tables]), space)

    @property
    def dim(self) -> int:
        return self._vectors.shape[1]

    @cached_property
    def fingerprint(self) -> str:
        return content_hash(self._description, {"embeddings": self._vectors})

    @property
    def names(self) -> tuple[str, ...]:
        """The texts that have a vector, as the files spell them."""
        return tuple(self._names)

    def encode(self, texts: Sequence[str]) -> Tensor:
        if not texts:
            raise UserError("no texts to encode; give at least one label")
        rows = [self._rows.get(_key(text)) for text in texts]
        if None in rows:
            raise UserError(self._unknown(texts[rows.index(None)]))
        return self._vectors[torch.tensor(rows)]

    def save(self, directory: Path) -> None:
        write_encoder(directory, self._description, {"embeddings": self._vectors})

    @classmethod
    def restore(cls, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TableTextEncoder:
        """From what `save` wrote."""
        encoder = cls(description["names"], tensors["embeddings"], description["space"])
        encoder._vectors = tensors["embeddings"]  # normalising twice moves the last bit
        return encoder

    @property
    def _description(self) -> dict[str, Any]:
        return {"kind": self.kind, "space": self._space, "names": self._names}

    def _unknown(self, text: str) -> str:
        words = [name for key, name in zip(self._rows, self._names, strict=True) if key and key in _key(text)]
        if words and len(text.split()) > 2:
            # the sign of a prompt template, which a table has no vectors for
            known = max(words, key=len)
            return f"text '{text}': not in the table of vectors, which knows '{known}'; use the bare template '{{}}'"
        near = [self._names[self._rows[k]] for k in difflib.get_close_matches(_key(text), self._rows, n=3, cutoff=0.5)]
        hint = f"nearest: {', '.join(near)}" if near else f"it has {', '.join(self._names[:6])}…"
        return f"text '{text}': not in the table of vectors; {hint}"


def _key(text: str) -> str:
    return re.sub(r"[\s_]+", "", text).casefold()


def _read(path: Path) -> tuple[list[str], Tensor, str]:
    try:
        with np.load(path, allow_pickle=False) as table:
            names = [str(name) for name in table["names"]]
            vectors = np.asarray(table["embeddings"], dtype=np.float32)
            space = str(table["clip_model"]) if "clip_model" in table.files else ""
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'cannot be read'}; give an .npz table of text vectors") from error
    except KeyError as error:
        raise UserError(f"{path}: has no array {error.args[0]!r}; a table holds 'names' and 'embeddings'") from error
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: is not an .npz table without pickles; it must hold 'names' and 'embeddings'"
        ) from error
    if vectors.ndim != 2 or len(names) != len(vectors) or not names:
        raise UserError(f"{path}: {len(names)} names for embeddings of shape {vectors.shape}; one row a name")
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        bad = names[int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])]
        raise UserError(f"{path}: the vector of '{bad}' is zero or not finite; mend or remove that row")
    return names, torch.from_numpy(vectors), space
