from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from colour_training import write_colours

from ovseg_ray.config import DataConfig, SourceConfig
from ovseg_ray.data import open_dataset
from ovseg_ray.data.cut import cut
from ovseg_ray.errors import UserError
from ovseg_ray.training.sources import Source, Sources, open_sources
from ovseg_ray.vocabulary import Vocabulary


def sources_of(*sources: SourceConfig, held_out: str = "data set", masks: bool = True) -> Sources:
    return open_sources(DataConfig(sources=list(sources), held_out=held_out), masks=masks)


@pytest.fixture
def colours(tmp_path: Path) -> str:
    return str(write_colours(tmp_path / "colours"))


def test_own_labels_pass_through(colours: str) -> None:
    sources = sources_of(SourceConfig(path=colours))
    source = sources.sources[0]
    assert [labels.names for labels in sources.label_sets] == [("red", "green", "blue", "yellow")]
    for row in (0, 5):
        assert source.sample(row).mask.tolist() == source.dataset.decoded(row).mask.tolist()
    assert len(sources) == 24


def test_held_out_pixels_are_ignored_and_the_rest_renumbered(colours: str) -> None:
    source = sources_of(SourceConfig(path=colours, held_out=["Green "])).sources[0]
    assert source.labels.names == ("red", "blue", "yellow")
    assert source.held_out == ("green",)
    for row in range(24):
        before, after = source.dataset.decoded(row).mask, source.sample(row).mask
        assert after.dtype == np.uint8
        for old, new in ((0, 0), (1, 255), (2, 1), (3, 2), (255, 255)):
            assert (after[before == old] == new).all()


def test_a_vocabulary_is_matched_by_name(colours: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.yaml"
    labels = [{"yellow": ["amber", "gold"]}, "pink", {"Blue": ["azure"]}, "green", "red"]
    path.write_text(yaml.safe_dump({"labels": labels, "templates": ["a {} thing"]}))
    source = sources_of(SourceConfig(path=colours, vocabulary=str(path), held_out=["red"])).sources[0]
    assert source.labels.names == ("yellow", "pink", "Blue", "green")
    assert source.labels.templates == ("a {} thing",)
    assert source.labels.labels[0].synonyms == ("amber", "gold")
    assert source.table.tolist() == [-1, 3, 2, 0]


def test_more_than_255_labels_need_wider_masks(colours: str) -> None:
    dataset = sources_of(SourceConfig(path=colours)).sources[0].dataset
    labels = Vocabulary.of([f"label {i}" for i in range(300)])
    source = Source(dataset, labels, np.array([0, 255, 299, -1]))
    before, sample = dataset.decoded(2).mask, source.sample(2)
    assert sample.mask.dtype == np.uint16
    assert sample.ignore_index == 65535
    for old, new in ((0, 0), (1, 255), (2, 299), (3, 65535), (255, 65535)):
        assert (sample.mask[before == old] == new).all()


def test_several_sets_have_their_own_labels(tmp_path: Path, colours: str) -> None:
    other = str(write_colours(tmp_path / "other", train=5, labels=("pink", "cyan")))
    sources = sources_of(SourceConfig(path=colours), SourceConfig(path=other), SourceConfig(path=other, split="val"))
    assert [len(labels) for labels in sources.label_sets] == [4, 2, 2]
    assert len(sources) == 24 + 5 + 6
    assert [sources.locate(i) for i in (0, 23, 24, 28, 29, 34)] == [(0, 0), (0, 23), (1, 0), (1, 4), (2, 0), (2, 5)]
    assert sources.image_id(24).endswith("train_000")
    assert sources.image_id(34).endswith("val_005")


def test_without_masks_nothing_of_them_is_read(colours: str) -> None:
    sources = sources_of(SourceConfig(path=colours), masks=False)
    assert sources.label_sets == []
    assert sources.sources[0].sample(0).mask is None


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({"held_out": ["grean"]}, "'grean' is no label .* did you mean 'green'"),
        ({"held_out": ["red", "green", "blue", "yellow"]}, "holds out all labels"),
        ({"split": "nope"}, "nope"),
        ({"vocabulary": "{labels}"}, "'yellow' is no label of 'short'"),
        ({"path": "{missing}"}, "missing"),
    ],
)
def test_what_does_not_fit_is_named(colours: str, tmp_path: Path, source: dict, text: str) -> None:
    (tmp_path / "short.yaml").write_text(yaml.safe_dump({"labels": ["red", "green", "blue"]}))
    places = {"{labels}": str(tmp_path / "short.yaml"), "{missing}": str(tmp_path / "missing")}
    values = {"path": colours, **source}
    config = SourceConfig(**{k: places.get(v, v) if isinstance(v, str) else v for k, v in values.items()})
    with pytest.raises(UserError, match=text) as caught:
        sources_of(config)
    assert "\n" not in str(caught.value)


def test_no_source_at_all() -> None:
    with pytest.raises(UserError, match="--data PATH"):
        sources_of()


def test_pairs_for_zero_shot_episodes(colours: str) -> None:
    data = DataConfig(sources=[SourceConfig(path=colours)], episodes="world:1")
    sources = open_sources(data, masks=True)
    whole = open_dataset(colours, "train")
    names = whole.require_masks().names
    held_out = set(names[1::4])
    assert [labels.names for labels in sources.label_sets] == [("others", n) for n in names if n not in held_out]
    for source in sources.sources:
        assert source.labels is not None
        index = names.index(source.labels.names[1])
        assert set(source.held_out) == held_out
        for row in range(len(source.dataset)):
            sample = source.sample(row)
            number = whole.index.column("image_id").to_pylist().index(sample.image_id)
            truth = whole.decoded(number).mask
            assert truth is not None
            assert sample.mask is not None
            # everything else, unlabelled pixels too, is "others"
            assert np.array_equal(sample.mask, truth == index)
            assert sample.mask.any()
    with pytest.raises(UserError, match="learns without masks"):
        open_sources(data, masks=False)


def test_images_cut_out_for_validation_are_in_no_episode(colours: str) -> None:
    data = DataConfig(sources=[SourceConfig(path=colours)], episodes="world:1", validation_share=0.25)
    sources = open_sources(data, masks=True)
    trained = {sources.image_id(index) for index in range(len(sources))}
    dataset = open_dataset(colours, "train")
    kept = cut(dataset, 0.25)[1].index.column("image_id").to_pylist()
    assert trained
    assert kept
    assert not trained & set(kept)
