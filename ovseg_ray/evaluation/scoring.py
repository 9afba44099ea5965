"""Scoring rows of a data set under one or more label lists, in plain PyTorch: what every worker runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.data.sample import DecodedSample
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.confusion import IGNORE, ConfusionMatrix
from ovseg_ray.evaluation.inference import Inference, SingleScale
from ovseg_ray.methods.base import Method
from ovseg_ray.vocabulary import Vocabulary

BATCH_SIZE = 8
MAX_LABELS = 8192  # a confusion matrix of 512 MiB
_OUTSIDE = -2


@dataclass(frozen=True)
class LabelSpace:
    """A list of labels to predict with, and how the truth is read in it.

    Attributes:
        name: what results call it.
        vocabulary: N labels.
        text: (N, D) float32, L2-normalised: their embeddings.
        truth_map: (C,) index into these labels for each class of the data set, -1 where its pixels are ignored;
            None: the labels are the data set's own, in its order.
    """

    name: str
    vocabulary: Vocabulary
    text: Tensor
    truth_map: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.vocabulary)
        if self.text.ndim != 2 or len(self.text) != n:
            raise ValueError(f"label space '{self.name}': {n} labels but text of shape {tuple(self.text.shape)}")
        if self.truth_map is not None and (self.truth_map.min() < IGNORE or self.truth_map.max() >= n):
            raise ValueError(f"label space '{self.name}': truth_map points outside its {n} labels")

    def truth(self, sample: DecodedSample, num_classes: int) -> np.ndarray:
        """(H, W) int64 truth of a sample in this space, -1 = ignored.

        Args:
            sample: with a mask.
            num_classes: C of the data set.

        Raises:
            UserError: no mask, or a class id outside the data set's labels.
        """
        if sample.mask is None:
            raise UserError(f"image '{sample.image_id}': has no mask; evaluate on a split where every image has one")
        table = np.full(np.iinfo(sample.mask.dtype).max + 1, _OUTSIDE, np.int64)
        table[:num_classes] = np.arange(num_classes) if self.truth_map is None else self.truth_map
        table[sample.ignore_index] = IGNORE
        truth = table[sample.mask]
        if (truth == _OUTSIDE).any():
            wrong = int(sample.mask[truth == _OUTSIDE].max())
            raise UserError(
                f"image '{sample.image_id}': mask holds class id {wrong}, outside the {num_classes} labels; "
                f"mend the mask, or paint such pixels {sample.ignore_index} (ignored)"
            )
        return truth


def score_rows(
    method: Method,
    dataset: DataSet,
    rows: Sequence[int],
    spaces: Sequence[LabelSpace],
    *,
    inference: Inference | None = None,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] | None = None,
) -> dict[str, ConfusionMatrix]:
    """Confusion matrices of some rows: each image is encoded once and segmented at its own full size per space.

    Images of equal size are batched within every `batch_size` consecutive rows, so two divisions of the same
    rows at multiples of `batch_size` run the very same batches and give the very same counts.

    Args:
        method: put into evaluation mode; runs where its parameters are.
        dataset: with masks.
        rows: of `dataset`.
        spaces: label lists, distinct names.
        inference: how images are looked at; default: `SingleScale`.
        batch_size: rows looked at together.
        progress: called with the number of rows done.

    Returns:
        One matrix a space, by its name.

    Raises:
        UserError: no masks, an unreadable image or mask, or label counts that do not fit.
    """
    num_classes = len(dataset.require_masks())
    check_spaces(spaces, num_classes)
    method.eval()
    inference = inference or SingleScale()
    device = next((p.device for p in method.parameters()), torch.device("cpu"))
    texts = [space.text.to(device) for space in spaces]
    matrices = {space.name: ConfusionMatrix(len(space.vocabulary)) for space in spaces}
    done = 0
    for samples in _decoded(dataset, rows, batch_size):
        for group in _same_size(samples):
            with torch.inference_mode():
                encoded = inference.encode(method, [sample.image for sample in group])
                for space, text in zip(spaces, texts, strict=True):
                    found = encoded.segment(text, group[0].image.shape[:2]).label_map.cpu().numpy()
                    for sample, label_map in zip(group, found, strict=True):
                        matrices[space.name].update(label_map, space.truth(sample, num_classes), IGNORE)
        done += len(samples)
        if progress is not None:
            progress(done)
    return matrices


def check_spaces(spaces: Sequence[LabelSpace], num_classes: int) -> None:
    """See that spaces have distinct names and fit a data set of `num_classes` classes.

    Raises:
        UserError: they do not.
    """
    if not spaces or len({space.name for space in spaces}) != len(spaces):
        raise UserError(f"label lists {[space.name for space in spaces]}: give at least one, each with its own name")
    for space in spaces:
        if len(space.vocabulary) > MAX_LABELS:
            raise UserError(
                f"label list '{space.name}': {len(space.vocabulary)} labels, at most {MAX_LABELS} are scored"
            )
        mapped = len(space.vocabulary) if space.truth_map is None else len(space.truth_map)
        if mapped != num_classes:
            raise UserError(f"label list '{space.name}': is for {mapped} classes, the data set has {num_classes}")


def _decoded(dataset: DataSet, rows: Sequence[int], batch_size: int) -> Iterator[list[DecodedSample]]:
    """Samples of every `batch_size` rows; the next ones are decoded while the last ones are being used."""

    def decode(start: int) -> list[DecodedSample]:
        return [dataset.decoded(int(row)) for row in rows[start : start + batch_size]]

    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(decode, 0)
        for start in range(0, len(rows), batch_size):
            samples = coming.result()
            coming = pool.submit(decode, start + batch_size)
            yield samples


def _same_size(samples: Iterable[DecodedSample]) -> list[list[DecodedSample]]:
    ordered = sorted(samples, key=lambda s: s.image.shape[:2])  # stable: equal sizes keep their order
    return [list(group) for _, group in groupby(ordered, key=lambda s: s.image.shape[:2])]
