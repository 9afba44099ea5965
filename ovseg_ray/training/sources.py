"""Data sets as they are trained on: each with its own label set, held-out labels ignored."""

from __future__ import annotations

import difflib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import numpy as np

from ovseg_ray.config import DataConfig, SourceConfig
from ovseg_ray.data import open_dataset
from ovseg_ray.data.cut import cut
from ovseg_ray.data.dataset import DataSet
from ovseg_ray.data.episodes import FOREGROUND, OTHERS, Fold, pairs
from ovseg_ray.data.sample import IGNORE_8, IGNORE_16, DecodedSample
from ovseg_ray.errors import UserError
from ovseg_ray.vocabulary import Vocabulary

IGNORED = -1


@dataclass(frozen=True)
class Source:
    """One data set among those trained on.

    Attributes:
        dataset: without its masks where the method needs none.
        labels: what is trained with: the vocabulary without held-out labels; None where no masks are needed.
        table: (C,) index into `labels` of each class of the data set, -1 where held out.
        held_out: labels whose pixels are ignored.
        unlabelled: index into `labels` of unlabelled pixels; -1: ignored.
    """

    dataset: DataSet
    labels: Vocabulary | None = None
    table: np.ndarray | None = None
    held_out: tuple[str, ...] = ()
    unlabelled: int = IGNORED

    def sample(self, row: int) -> DecodedSample:
        """A sample whose mask indexes `labels`, held-out pixels ignored.

        Raises:
            UserError: unreadable, or without the mask it must have.
        """
        sample = self.dataset.decoded(row)
        if self.table is None or self.labels is None:
            return sample
        if sample.mask is None:
            raise UserError(f"image '{sample.image_id}' of {self.dataset.path}: has no mask; add one, or leave it out")
        return replace(sample, mask=self._lookup[sample.mask])

    @cached_property
    def _lookup(self) -> np.ndarray:
        assert self.table is not None
        assert self.labels is not None
        wide = len(self.labels) > IGNORE_8
        ignore, dtype = (IGNORE_16, np.uint16) if wide else (IGNORE_8, np.uint8)
        lookup = np.full(IGNORE_16 + 1, ignore if self.unlabelled == IGNORED else self.unlabelled, dtype)
        lookup[: len(self.table)] = np.where(self.table == IGNORED, ignore, self.table)
        return lookup


class Sources:
    """All data sets trained on together, as one row of samples.

    Args:
        sources: at least one.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        self._ends = list(accumulate(len(source.dataset) for source in self.sources))

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, index: int) -> tuple[int, int]:
        """(source, row) of a sample index."""
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def image_id(self, index: int) -> str:
        """Name of a sample."""
        number, row = self.locate(index)
        return self.sources[number].dataset.index.column("image_id")[row].as_py()

    @property
    def label_sets(self) -> list[Vocabulary]:
        """Training labels of each source, in order; empty for a method without masks."""
        return [source.labels for source in self.sources if source.labels is not None]


def open_sources(data: DataConfig, *, masks: bool) -> Sources:
    """Open every data set and fix its training labels.

    Args:
        data: configuration.
        masks: whether the method learns from masks; they are not even decoded otherwise.

    Raises:
        UserError: no data set, one that cannot be read, or labels that do not fit.
    """
    if not data.sources:
        raise UserError("data.sources: no data set to train on; give --data PATH")
    if data.episodes is not None:
        if not masks:
            raise UserError(f"data.episodes = {data.episodes}: this method learns without masks; leave it out")
        fold = Fold.parse(data.episodes)
        return Sources([pair for source in data.sources for pair in _open_pairs(source, data, fold)])
    return Sources([_open(source, data, masks) for source in data.sources])


def _open_pairs(config: SourceConfig, data: DataConfig, fold: Fold) -> list[Source]:
    """A source for each class: the images that show it, the class against all else; nothing is ignored."""
    dataset = open_dataset(config.path, config.split)
    if data.validation_share:
        dataset, _ = cut(dataset, data.validation_share)
    own = dataset.require_masks()
    if config.vocabulary is not None:
        raise UserError(f"data.sources.vocabulary of {config.path}: episodes ask by the protocol's words; leave it out")
    hidden = [*config.held_out, *(dataset.unseen if data.held_out == "data set" else ())]
    left_out = {place(own, name, f"held_out of {config.path}") for name in hidden}
    trained = [index for index in fold.trained(dataset) if index not in left_out]
    rows: dict[int, list[int]] = {}
    for row, index in pairs(dataset, trained):
        rows.setdefault(index, []).append(row)
    if not rows:
        raise UserError(f"{config.path} (split {config.split}): shows no class that {fold.name} trains on")
    names = tuple(own.names[index] for index in fold.classes(dataset) if index not in trained)
    sources = []
    for index, shown in rows.items():
        table = np.full(len(own), OTHERS)
        table[index] = FOREGROUND
        part = replace(dataset, index=dataset.index.take(np.array(shown)))
        sources.append(Source(part, fold.question(dataset, index), table, names, unlabelled=OTHERS))
    return sources


def _open(config: SourceConfig, data: DataConfig, masks: bool) -> Source:
    dataset = open_dataset(config.path, config.split)
    if data.validation_share:
        dataset, _ = cut(dataset, data.validation_share)
    if not masks:
        return Source(replace(dataset, masks=None))
    own = dataset.require_masks()
    vocabulary = own if config.vocabulary is None else Vocabulary.from_yaml(config.vocabulary)
    places = [place(vocabulary, name, config.vocabulary or config.path) for name in own.names]
    hidden = [*config.held_out, *(dataset.unseen if data.held_out == "data set" else ())]
    held_out = {vocabulary.names[place(vocabulary, name, f"held_out of {config.path}")] for name in hidden}
    kept = [name for name in vocabulary.names if name not in held_out]
    if not kept:
        raise UserError(f"data.sources.held_out: holds out all labels of {config.path}; keep at least one")
    position = {name: index for index, name in enumerate(kept)}
    table = np.array([position.get(vocabulary.names[index], IGNORED) for index in places])
    return Source(dataset, vocabulary.subset(kept), table, tuple(n for n in vocabulary.names if n in held_out))


def place(vocabulary: Vocabulary, name: str, where: str) -> int:
    """Index of the label of a name, without regard to case and outer blanks.

    Raises:
        UserError: no such label; names the nearest.
    """
    keys = [known.strip().casefold() for known in vocabulary.names]
    key = name.strip().casefold()
    if key in keys:
        return keys.index(key)
    near = difflib.get_close_matches(key, keys, n=1)
    hint = f"did you mean '{vocabulary.names[keys.index(near[0])]}'?" if near else "its labels go by class names"
    raise UserError(f"{where}: '{name}' is no label of '{vocabulary.name}' ({len(vocabulary)} labels); {hint}")
