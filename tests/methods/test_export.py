"""Exported models: what is written, that it is self-contained, and what a damaged one says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from contract import text_table, words

import ovseg_ray
from ovseg_ray.config import build
from ovseg_ray.errors import UserError
from ovseg_ray.methods.export import describe_model, load_model, save_model
from ovseg_ray.methods.lseg import LSeg, LSegConfig
from ovseg_ray.vocabulary import Vocabulary

LABELS = Vocabulary.of(words(4), ("{}", "a {}"), "first")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("run") / "model"
    values = {"text": "table:/gone.npz", "width": 8, "encoder": {"channels": [8, 8, 8, 8], "weights": None}}
    method = LSeg(build(LSegConfig, values))
    method.use_text_encoder(text_table())
    save_model(method, directory, vocabularies=[LABELS], provenance={"seed": 7})
    return directory


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "model")
    return tmp_path / "model"


def test_description_says_what_it_is(exported: Path) -> None:
    description = describe_model(exported)
    assert description.method == "lseg"
    assert description.config["joint_width"] == 16  # resolved: loading needs no text specification
    assert description.label_sets == (LABELS,)
    assert description.provenance == {"seed": 7}
    assert description.packages["ovseg-ray"] == ovseg_ray.__version__
    assert {path.name for path in exported.iterdir()} == {"model.json", "model.safetensors", "text"}


def test_loading_needs_nothing_else(copy: Path) -> None:
    method = load_model(copy)
    assert method.label_sets == (LABELS,)
    assert method.text_encoder is not None
    assert method.text_encoder.fingerprint == text_table().fingerprint
    assert not method.training


def test_an_older_export_is_replaced(copy: Path) -> None:
    method = load_model(copy)
    save_model(method, copy, vocabularies=[], provenance={"seed": 8})
    assert describe_model(copy).provenance == {"seed": 8}
    assert describe_model(copy).label_sets == (LABELS,)
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


def _change(key: str, value: object) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        content = json.loads((directory / "model.json").read_text())
        content[key] = value
        (directory / "model.json").write_text(json.dumps(content))

    return damage


def _drop(key: str) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        content = json.loads((directory / "model.json").read_text())
        del content[key]
        (directory / "model.json").write_text(json.dumps(content))

    return damage


def _truncate(name: str) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        data = (directory / name).read_bytes()
        (directory / name).write_bytes(data[: len(data) // 2])

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_change("format", 99), "model.json: format 99, this version reads 1"),
        (_drop("format"), "model.json: format None"),
        (_drop("label_sets"), "model.json: is incomplete"),
        (_drop("config"), "model.json: is incomplete"),
        (_change("method", "lsegg"), "did you mean 'lseg'"),
        (_change("config", {"widht": 3}), "did you mean 'width'"),
        (_change("config", {"width": 16}), "model.safetensors: does not fit model.json"),
        (_truncate("model.json"), "model.json: is not valid JSON"),
        (_truncate("model.safetensors"), "model.safetensors: is damaged"),
        (_truncate("text/text.safetensors"), "text.safetensors"),
        (lambda directory: (directory / "model.json").unlink(), "model.json: No such file"),
        (lambda directory: (directory / "model.safetensors").unlink(), "model.safetensors: cannot be read"),
        (lambda directory: (directory / "text/text.json").unlink(), "text.json"),
    ],
)
def test_damage_is_told_in_one_line(copy: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(copy)
    with pytest.raises(UserError, match=message) as caught:
        load_model(copy)
    assert "\n" not in str(caught.value)


def test_version_is_that_of_the_package() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project.get("version", ovseg_ray.__version__) == ovseg_ray.__version__


def test_a_failed_write_leaves_nothing_that_looks_whole(copy: Path, tmp_path: Path) -> None:
    method = load_model(copy)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        save_model(method, tmp_path / "file" / "model", vocabularies=[], provenance={})
    with pytest.raises(TypeError):
        save_model(method, tmp_path / "new", vocabularies=[], provenance={"array": np.zeros(1)})
    assert not (tmp_path / "new").exists()
