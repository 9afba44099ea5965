"""Labels, label sets and templates."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovseg_ray.errors import UserError
from ovseg_ray.vocabulary import Vocabulary, shipped_sets, template_set


def test_parse_reads_synonyms() -> None:
    vocabulary = Vocabulary.parse("sky, car|automobile , a red chair")
    assert vocabulary.names == ("sky", "car", "a red chair")
    assert vocabulary.labels[1].synonyms == ("car", "automobile")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", 'no labels; give at least one, such as "sky, grass"'),
        (" , ", 'no labels; give at least one, such as "sky, grass"'),
        ("sky,,grass", "is empty"),
        ("sky,sky", "twice"),
        ("sky; grass", "separate labels by commas"),
        ("car|", "'car' has an empty synonym; remove it"),
        ("x" * 1001, "too long"),
    ],
)
def test_bad_labels_are_named(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Vocabulary.parse(text)


@pytest.mark.parametrize("template", ["no place", "{} and {}", ""])
def test_a_template_has_one_place(template: str) -> None:
    with pytest.raises(UserError, match="once"):
        Vocabulary.of(["sky"], [template])


def test_fingerprint_follows_the_content_not_the_name() -> None:
    one = Vocabulary.of(["a", "b"], name="one")
    assert one.fingerprint == Vocabulary.of(["a", "b"], name="two").fingerprint
    different = [
        Vocabulary.of(["b", "a"]),
        Vocabulary.parse("a,b|c"),
        one.with_templates(["a {}"]),
        one.subset(["a"]),
    ]
    assert len({one.fingerprint, *(other.fingerprint for other in different)}) == 5


def test_yaml_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("templates: vild14\nlabels:\n- sky\n- car: [car, automobile]\n- {name: other, background: true}\n")
    vocabulary = Vocabulary.from_yaml(path)
    assert vocabulary.name == "mine"
    assert vocabulary.templates == template_set("vild14")
    assert vocabulary.labels[1].synonyms == ("car", "automobile")
    assert vocabulary.labels[2].background
    assert Vocabulary.from_mapping(vocabulary.to_mapping(), "round trip") == vocabulary


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("labels: sky", "must be a list"),
        ("labels: [sky]\ntemplate: x", "unknown key 'template'"),
        ("labels: [sky]\ntemplates: vild41", "did you mean 'vild14'"),
        ("labels: [sky]\ntemplates: {a: b}", "'templates' must be a list"),
        ("labels: [12]", "label 12 is no text; put the name in quotes"),
        ("labels: [yes]", "label True is no text; put the name in quotes"),
        ("labels: [{name: x, synonym: [a]}]", "label 'x': unknown key 'synonym'; it has name, synonyms, background"),
        ("labels: [[a, b]]", "must be a name"),
        ("labels: []", 'no labels; give at least one, such as "sky, grass"'),
        ("labels: [sky", "not valid YAML"),
    ],
)
def test_bad_yaml_is_explained(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        Vocabulary.from_yaml(path)


@pytest.mark.parametrize(("name", "says"), [("coco-8", "did you mean 'coco-80'"), ("zzz", "shipped sets: ade20k-150")])
def test_unknown_set_names_the_nearest(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Vocabulary.from_yaml(name)


def test_a_file_goes_before_a_shipped_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("coco-80").write_text("labels: [mine]")
    assert Vocabulary.from_yaml("coco-80").names == ("mine",)


def test_shipped_sets_have_the_count_in_their_name() -> None:
    sets = shipped_sets()
    assert set(sets) == {
        "ade20k-150",
        "camvid-11",
        "cityscapes-19",
        "coco-20i-80",
        "coco-80",
        "coco-stuff-171",
        "pascal-context-59",
        "pascal-voc-20",
    }
    for name in sets:
        vocabulary = Vocabulary.from_yaml(name)
        assert vocabulary.name == name
        assert len(vocabulary) == int(name.rpartition("-")[2])


@pytest.mark.parametrize(
    ("name", "index", "label"),
    [
        ("ade20k-150", 0, "wall"),
        ("ade20k-150", 12, "person"),
        ("ade20k-150", 149, "flag"),
        ("camvid-11", 6, "SignSymbol"),
        ("cityscapes-19", 13, "car"),
        ("coco-80", 79, "toothbrush"),
        ("coco-stuff-171", 80, "banner"),
        ("coco-stuff-171", 84, "building-other"),
        ("pascal-context-59", 58, "wood"),
        ("pascal-voc-20", 10, "diningtable"),
    ],
)
def test_shipped_labels_stand_at_their_published_index(name: str, index: int, label: str) -> None:
    assert Vocabulary.from_yaml(name).index(label) == index


def test_the_zero_shot_names_of_coco() -> None:
    asked = Vocabulary.from_yaml("coco-20i-80")
    assert asked.names == Vocabulary.from_yaml("coco-80").names
    words = [label.synonyms[0] for label in asked.labels]
    assert (words[3], words[9], words[62]) == ("motorbike", "trafficlight", "tvmonitor")
    assert not [word for word in words if " " in word]


def test_coco_stuff_begins_with_coco() -> None:
    assert Vocabulary.from_yaml("coco-stuff-171").names[:80] == Vocabulary.from_yaml("coco-80").names


@pytest.mark.parametrize(("name", "count"), [("bare", 1), ("vild14", 14), ("imagenet80", 80)])
def test_template_sets(name: str, count: int) -> None:
    templates = template_set(name)
    assert len(set(templates)) == count
    assert len(Vocabulary.of(["sky"], templates)) == 1  # each holds {} once
