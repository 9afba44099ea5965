"""Zero-shot episodes: one class of one image against everything else, classes held out fold by fold.

The protocols of PASCAL-5i (Shaban et al. 2017), COCO-20i (Nguyen and Todorovic 2019) and FSS-1000 (Li et al. 2020) as
HSNet (Min et al. 2021) runs them and LSeg (Li et al. 2022, section 5.1) takes them over, without support images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from ovseg_ray.config import Config
from ovseg_ray.data.dataset import DataSet
from ovseg_ray.data.images import image_size, read_bytes
from ovseg_ray.data.masks import ignore_value
from ovseg_ray.errors import UserError, did_you_mean
from ovseg_ray.vocabulary.vocabulary import Label, Vocabulary

OTHERS, FOREGROUND = 0, 1


class EpisodeProtocol(Config):
    """How classes are held out, and how episodes are drawn and scored."""

    folds: int = Field(4, ge=1, description="held-out parts of the classes")
    held_out: Literal["blocks", "interleaved", "none"] = Field(
        description="fold f of n holds out the f-th n-th of the classes, or classes f, f + n, f + 2n, …; none: splits "
        "of the data have different classes"
    )
    classes: int | None = Field(None, ge=1, description="first classes of the data set that take part; null: all")
    others: str = Field("others", description="label of everything else")
    size: int | None = Field(480, ge=1, description="side that image and mask are squashed to; null: as they are")
    episodes: int | None = Field(1000, ge=1, description="number; null: every pair of image and class once")
    draw: Literal["list", "classes"] = Field(
        "list", description="the list of pairs over and over, or a class and then an image of it, uniformly"
    )
    seed: int = Field(0, ge=0, description="of that draw")
    unlabelled: Literal["ignored", "others"] = Field("ignored", description="what unlabelled pixels are in the metric")
    vocabulary: str | None = Field(None, description="how classes are asked for; null: by the data set's labels")


PROTOCOLS = {
    "pascal-5i": EpisodeProtocol(held_out="blocks"),
    "coco-20i": EpisodeProtocol(held_out="interleaved", draw="classes", unlabelled="others", vocabulary="coco-20i-80"),
    "fss-1000": EpisodeProtocol(folds=1, held_out="none", episodes=None, unlabelled="others"),
    # compositions of the generated world: every look and every shape is also seen with others
    "world": EpisodeProtocol(held_out="interleaved", classes=40, size=None, draw="classes", unlabelled="others"),
}


class Pair(NamedTuple):
    """An image and a class in it."""

    row: int
    class_index: int


@dataclass(frozen=True)
class Fold:
    """One fold of a protocol.

    Attributes:
        name: as it was asked for.
        protocol: its rules.
        number: 0-based.
    """

    name: str
    protocol: EpisodeProtocol
    number: int

    @classmethod
    def parse(cls, text: str) -> Fold:
        """`pascal-5i:0` to `pascal-5i:3`, `coco-20i:0`…, `world:0`…, or `fss-1000`.

        Raises:
            UserError: no such protocol or fold.
        """
        name, _, number = text.partition(":")
        if name not in PROTOCOLS:
            hint = did_you_mean(name, PROTOCOLS, f"there are {', '.join(PROTOCOLS)}")
            raise UserError(f"episodes '{text}': no such protocol; {hint}")
        protocol = PROTOCOLS[name]
        if protocol.folds == 1 and not number:
            number = "0"
        if not number.isdecimal() or int(number) >= protocol.folds:
            raise UserError(f"episodes '{text}': name a fold, {name}:0 to {name}:{protocol.folds - 1}")
        return cls(text, protocol, int(number))

    def classes(self, dataset: DataSet) -> list[int]:
        """Classes that take part, by their index in the data set's labels: all but background.

        Raises:
            UserError: no masks.
        """
        labels = dataset.require_masks().labels
        return [index for index, label in enumerate(labels) if not label.background][: self.protocol.classes]

    def held_out(self, dataset: DataSet) -> list[int]:
        """The classes of this fold; with rule "none" all.

        Raises:
            UserError: no masks, or fewer classes than folds.
        """
        classes, folds = self.classes(dataset), self.protocol.folds
        if len(classes) < folds:
            raise UserError(f"{dataset.path}: {len(classes)} classes do not make {folds} folds; give another data set")
        if self.protocol.held_out == "none":
            return classes
        if self.protocol.held_out == "interleaved":
            return classes[self.number :: folds]
        size = len(classes) // folds
        return classes[self.number * size : (self.number + 1) * size]

    def trained(self, dataset: DataSet) -> list[int]:
        """The classes that training may see; with rule "none" all."""
        if self.protocol.held_out == "none":
            return self.classes(dataset)
        hidden = set(self.held_out(dataset))
        return [index for index in self.classes(dataset) if index not in hidden]

    def question(self, dataset: DataSet, class_index: int) -> Vocabulary:
        """("others", the class), in this order.

        Raises:
            UserError: the protocol's label set does not know the class.
        """
        own = dataset.require_masks()
        label = own.labels[class_index]
        if self.protocol.vocabulary is not None:
            label = _asked(Vocabulary.from_yaml(self.protocol.vocabulary), label)
        others = Label(self.protocol.others, (self.protocol.others,), background=True)
        return Vocabulary((others, label), own.templates, f"{self.protocol.others} and {label.name}")

    def target(self, mask: np.ndarray, num_classes: int, class_index: int) -> tuple[np.ndarray, np.ndarray]:
        """Where a class is, and where the metric does not ask.

        Args:
            mask: (H, W) class indices.
            num_classes: of the data set.
            class_index: the class.

        Returns:
            (H, W) uint8 of `OTHERS` and `FOREGROUND`, and (H, W) bool.
        """
        ignored = mask == ignore_value(num_classes)
        if self.protocol.unlabelled == "others":
            ignored = np.zeros_like(ignored)
        return (mask == class_index).astype(np.uint8), ignored

    def episodes(self, dataset: DataSet) -> list[Pair]:
        """What is scored: images of held-out classes, in the order that the protocol draws them.

        Raises:
            UserError: an unreadable mask, or no image of a held-out class.
        """
        held_out = self.held_out(dataset)
        found = pairs(dataset, held_out)
        if not found:
            raise UserError(
                f"{dataset.path} (split {dataset.split}): shows no class of {self.name}; give another split"
            )
        if self.protocol.episodes is None:
            return found
        count = self.protocol.episodes
        if self.protocol.draw == "list":
            return [found[index % len(found)] for index in range(count)]
        rows: dict[int, list[int]] = {}
        for pair in found:
            rows.setdefault(pair.class_index, []).append(pair.row)
        present = [index for index in held_out if index in rows]
        # the legacy generator, one choice after the other: the sequence that the published code draws
        random = np.random.RandomState(self.protocol.seed)
        drawn = []
        for _ in range(count):
            chosen = int(random.choice(present, 1, replace=False)[0])
            drawn.append(Pair(int(random.choice(rows[chosen], 1, replace=False)[0]), chosen))
        return drawn


def pairs(dataset: DataSet, classes: Iterable[int]) -> list[Pair]:
    """Every image with every one of some classes that it shows, by class, then row.

    A data set that brings lists of its own (`splits/TRN_OR_VAL/foldN.txt`, lines `IMAGE__CLASS` with classes from 1, as
    HSNet ships them for PASCAL-5i) is taken at its word; else every mask is looked at.

    Raises:
        UserError: a mask that cannot be read.
    """
    wanted = list(classes)
    listed = _listed(dataset, wanted)
    if listed is not None:
        return listed
    quick = getattr(dataset.masks, "present", None)

    def shown(row: int) -> list[int]:
        values = dataset.row(row)
        known = quick(values) if quick is not None else None
        if known is not None:
            return sorted(set(wanted) & known)
        assert dataset.masks is not None, "classes are numbered by the labels of masks"
        size = image_size(read_bytes(values["image_path"]), values["image_path"], exif=dataset.exif)
        mask = dataset.masks(values, *size)
        return [] if mask is None else sorted(set(wanted) & set(np.unique(mask).tolist()))

    with ThreadPoolExecutor(max_workers=4) as pool:
        found = list(pool.map(shown, range(len(dataset))))
    return sorted((Pair(row, c) for row, present in enumerate(found) for c in present), key=lambda p: (p[1], p[0]))


def _listed(dataset: DataSet, classes: Sequence[int]) -> list[Pair] | None:
    folder = dataset.path / "splits" / ("trn" if dataset.split.startswith("train") else "val")
    files = sorted(folder.glob("fold*.txt"))
    if not files:
        return None
    numbers = [index for index, label in enumerate(dataset.require_masks().labels) if not label.background]
    rows = {image_id: row for row, image_id in enumerate(dataset.index.column("image_id").to_pylist())}
    found = []
    for file in files:
        for line in file.read_text(encoding="utf-8").split():
            image, _, number = line.partition("__")
            if image not in rows or not number.isdecimal() or not 1 <= int(number) <= len(numbers):
                raise UserError(f"{file}: '{line}' names no image and class of split '{dataset.split}'; mend that line")
            if numbers[int(number) - 1] in classes:
                found.append(Pair(rows[image], numbers[int(number) - 1]))
    return found


def _asked(vocabulary: Vocabulary, label: Label) -> Label:
    """The label of a set that a class of the data goes by: its name, or one of the words it is asked by."""
    for known in vocabulary.labels:
        if label.name in (known.name, *known.synonyms):
            return known
    raise UserError(
        f"class '{label.name}' is none of '{vocabulary.name}'; give data with its {len(vocabulary)} classes"
    )
