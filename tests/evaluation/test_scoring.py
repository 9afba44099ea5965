from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from colour_method import ColourMethod, make_dataset, text_of

from ovseg_ray.data.sample import DecodedSample
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.confusion import ConfusionMatrix
from ovseg_ray.evaluation.scoring import LabelSpace, score_rows
from ovseg_ray.vocabulary import Vocabulary

LABELS = ["red", "green", "blue", "yellow"]


def space(labels: list[str], name: str = "own", truth_map: list[int] | None = None) -> LabelSpace:
    vocabulary = Vocabulary.of(labels)
    return LabelSpace(name, vocabulary, text_of(vocabulary), None if truth_map is None else np.array(truth_map))


def test_counts_are_those_of_the_masks(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 5, LABELS)
    method = ColourMethod()
    found = score_rows(method, dataset, range(5), [space(LABELS)])["own"]
    expected = ConfusionMatrix(4)
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]])
    for i in range(5):
        sample = dataset.decoded(i)
        painted = (sample.image[:, :, None] == colours).all(-1).argmax(-1)
        expected.update(painted, sample.mask, 255)
    assert np.array_equal(found.counts, expected.counts)
    assert 0.7 < found.metrics()["miou"] < 0.99


def test_one_encoding_for_all_spaces_and_batches_of_equal_size(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 10, LABELS, sizes=((12, 16), (8, 8), (16, 12)))
    method = ColourMethod()
    spaces = [space(LABELS), space(["warm", "cold"], "parents", [0, 1, 1, 0])]
    together = score_rows(method, dataset, range(10), spaces, batch_size=10)
    assert method.encoded_images == 10
    assert sorted(method.batch_sizes) == [3, 3, 4]
    alone = [score_rows(method, dataset, [i], spaces) for i in range(10)]
    for name in ("own", "parents"):
        merged = ConfusionMatrix(together[name].num_classes)
        for one in alone:
            merged = merged.merge(one[name])
        assert np.array_equal(merged.counts, together[name].counts)


def test_truth_map_moves_and_ignores(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 3, LABELS)
    own = score_rows(ColourMethod(), dataset, range(3), [space(LABELS)])["own"].counts
    # another order, a distractor that is never true, and yellow left out
    asked = space(["cyan", "blue", "green", "red"], "asked", [3, 2, 1, -1])
    counts = score_rows(ColourMethod(), dataset, range(3), [asked])["asked"].counts
    assert counts[0].sum() == 0
    assert counts.sum() == own[:3].sum()
    assert counts[3].sum() == own[0].sum()


def test_a_mask_outside_the_labels_names_the_image(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 2, LABELS)
    fewer = replace(dataset, vocabulary=Vocabulary.of(LABELS[:3]))
    with pytest.raises(UserError, match=r"image '000': mask holds class id 3, outside the 3 labels"):
        score_rows(ColourMethod(), fewer, range(2), [space(LABELS[:3])])


def test_16_bit_masks_ignore_65535() -> None:
    mask = np.array([[0, 255], [300, 65535]], np.uint16)
    sample = DecodedSample("a", np.zeros((2, 2, 3), np.uint8), mask, ())
    vocabulary = Vocabulary.of(map(str, range(301)))
    wide = LabelSpace("wide", vocabulary, torch.zeros(301, 3))
    assert wide.truth(sample, 301).tolist() == [[0, 255], [300, -1]]


@pytest.mark.parametrize(
    ("spaces", "words"),
    [
        ([], "at least one"),
        ([space(LABELS), space(LABELS)], "own name"),
        ([space(LABELS[:2])], "is for 2 classes, the data set has 4"),
    ],
)
def test_spaces_that_do_not_fit(tmp_path: Path, spaces: list[LabelSpace], words: str) -> None:
    with pytest.raises(UserError, match=words):
        score_rows(ColourMethod(), make_dataset(tmp_path, 1, LABELS), [0], spaces)


def test_a_data_set_without_masks_is_refused(tmp_path: Path) -> None:
    bare = replace(make_dataset(tmp_path, 1, LABELS), masks=None, vocabulary=None)
    with pytest.raises(UserError, match="has no masks"):
        score_rows(ColourMethod(), bare, [0], [space(LABELS)])


def test_a_space_is_checked_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="text of shape"):
        LabelSpace("x", Vocabulary.of(["red"]), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="points outside"):
        LabelSpace("x", Vocabulary.of(["red"]), torch.zeros(1, 3), np.array([0, 1]))


def test_progress_counts_rows(tmp_path: Path) -> None:
    seen: list[int] = []
    dataset = make_dataset(tmp_path, 5, LABELS)
    score_rows(ColourMethod(), dataset, range(5), [space(LABELS)], batch_size=2, progress=seen.append)
    assert seen == [2, 4, 5]
