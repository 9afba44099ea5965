"""Search spaces, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovseg_ray.config import build
from ovseg_ray.errors import UserError
from ovseg_ray.methods.registry import method_names
from ovseg_ray.training.config import resolve_config
from ovseg_ray.tuning.check import check_space, configured, leaves, lookup, nested
from ovseg_ray.tuning.ledger import default_values
from ovseg_ray.tuning.space import SHIPPED, SweepSpace, read_space

METHODS = method_names()  # before those of tests are added
LR = {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}
KIND = {"type": "choice", "values": ["none", "depthwise", "bottleneck"]}


def space_of(**keys: Any) -> SweepSpace:
    return build(SweepSpace, {"space": {key.replace("__", "."): range_ for key, range_ in keys.items()}})


@pytest.mark.parametrize("method", METHODS)
def test_each_method_ships_a_space_that_fits_it(method: str) -> None:
    space = read_space(None, method)
    base = resolve_config(method, None, {})
    check_space(space, base, method)
    # the configuration that a sweep starts from lies within: it is trial 0
    known = base.model_dump(mode="json")
    missing = set(space.space) - set(default_values(space, known))
    assert all(space.space[key].when or lookup(known, key) is None for key in missing)


def test_no_other_spaces_ship() -> None:
    assert sorted(path.stem for path in SHIPPED.glob("*.yaml")) == METHODS


@pytest.mark.parametrize(
    ("space", "text"),
    [
        ({"a": {"type": "float", "low": 2, "high": 1}}, "low must be less than high"),
        ({"a": {"type": "float", "low": 0, "high": 1, "log": True}}, "a log range starts above 0"),
        ({"a": {"type": "int", "low": 1, "high": 8, "log": True, "step": 2}}, "has step 1"),
        ({"a": {"type": "choice", "values": ["x"]}}, "at least 2"),
        ({"a": {"type": "choice", "values": [1, 1.0]}}, "a value stands twice"),
        ({"a": {"type": "flot", "low": 0, "high": 1}}, "flot"),
        ({"a": {"type": "float", "low": 0, "high": 1, "lgo": True}}, "lgo"),
        ({"a": KIND | {"when": {"b": ["x"]}}, "b": KIND}, "a key of the space above it"),
        ({"b": KIND, "a": KIND | {"when": {"b": ["x"]}}}, "which it never is"),
        ({}, "must hold at least one entry"),
    ],
)
def test_a_wrong_space_is_refused(space: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        build(SweepSpace, {"space": space}, "space.yaml")


def test_what_else_is_wrong_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("objctives: [{metric: miou}]\nspace: {}\n")
    with pytest.raises(UserError, match=r"space.yaml: unknown key 'objctives'; did you mean 'objectives'"):
        read_space(str(file), "lseg")
    file.write_text(
        "objectives: [{metric: latency_ms}]\nscheduler: {name: asha}\nspace: {a: {type: int, low: 1, high: 2}}"
    )
    with pytest.raises(UserError, match="asha needs an objective of validation"):
        read_space(str(file), "lseg")
    with pytest.raises(UserError, match=r"gone.yaml: No such file"):
        read_space(str(tmp_path / "gone.yaml"), "lseg")


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"model__tempreature": LR}, "unknown key 'model.tempreature'; did you mean 'model.temperature'"),
        ({"temperature": LR}, "did you mean 'model.temperature'"),
        ({"training__lr": LR}, "did you mean 'training.optimizer.lr'"),
        (
            {"model__temperature": {**LR, "low": -1.0, "log": False}},
            r"model.temperature = -1.0 is refused .*greater than 0",
        ),
        ({"training__batch_size": {"type": "float", "low": 1.5, "high": 4}}, "training.batch_size = 1.5 is refused"),
        ({"model__head_block__kind": {"type": "choice", "values": ["none", "deep"]}}, "'deep' is refused"),
        ({"data__sources": {"type": "choice", "values": [[], [1]]}}, "the same for all trials"),
        ({"training__seed": {"type": "int", "low": 0, "high": 2}}, "the same for all trials"),
        ({"model__encoder__nmae": KIND}, "did you mean 'model.encoder.name'"),
    ],
)
def test_a_space_that_does_not_fit_the_method(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        check_space(space_of(**keys), resolve_config("lseg", None, {}), "space.yaml")


def test_a_key_that_needs_another_is_probed_with_it() -> None:
    depth = {"type": "int", "low": 1, "high": 3, "when": {"model.head_block.kind": ["depthwise"]}}
    check_space(
        space_of(model__head_block__kind=KIND, model__head_block__depth=depth), resolve_config("lseg", None, {}), ""
    )
    wrong = {**depth, "low": 0}
    with pytest.raises(UserError, match=r"kind = 'depthwise', model.head_block.depth = 0 is refused"):
        check_space(
            space_of(model__head_block__kind=KIND, model__head_block__depth=wrong),
            resolve_config("lseg", None, {}),
            "s",
        )


def test_keys_of_ones_own_choice_are_known() -> None:
    base = resolve_config("lseg", None, {})
    check_space(space_of(model__loss__class_weights__sky={"type": "float", "low": 0.5, "high": 2}), base, "s")


def test_values_reach_the_configuration() -> None:
    base = resolve_config("lseg", None, {})
    found = configured(
        base, {"model.temperature": 0.2, "training.optimizer.lr": 0.5, "model.augmentation.crop": [64, 32]}
    )
    assert found.model["temperature"] == 0.2
    assert found.model["augmentation"]["crop"] == [64, 32]
    assert found.training.optimizer.lr == 0.5
    assert found.training.optimizer.weight_decay == base.training.optimizer.weight_decay


def test_dotted_keys() -> None:
    tree = {"a": {"b": 1, "c": {"d": 2}}}
    assert dict(leaves(tree)) == {"a": tree["a"], "a.b": 1, "a.c": {"d": 2}, "a.c.d": 2}
    assert nested({"a.b": 1, "a.c.d": 2}) == tree
    assert lookup(tree, "a.c.d") == 2
    with pytest.raises(KeyError):
        lookup(tree, "a.b.d")


def test_what_the_configuration_holds_is_where_it_starts() -> None:
    space = space_of(
        a={"type": "float", "low": 0, "high": 1}, b={"type": "int", "low": 0, "high": 8, "step": 4},
        kind=KIND, depth={"type": "int", "low": 1, "high": 3, "when": {"kind": ["depthwise"]}},
    )  # fmt: skip
    assert default_values(space, {"a": 0.5, "b": 4, "kind": "none", "depth": 1}) == {"a": 0.5, "b": 4, "kind": "none"}
    assert default_values(space, {"a": 1.5, "b": 5, "kind": "depthwise", "depth": 1}) == {
        "kind": "depthwise",
        "depth": 1,
    }
