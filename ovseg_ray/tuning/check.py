"""A search space against a method's configuration, before any trial starts."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ovseg_ray.config import build, merge
from ovseg_ray.errors import UserError
from ovseg_ray.methods.registry import get_method
from ovseg_ray.training.config import RunConfig
from ovseg_ray.tuning.space import SweepSpace, Value

FIXED = ("method", "data.sources", "data.validation_share", "data.validation_split", "training.seed")


def check_space(
    space: SweepSpace, base: RunConfig, source: str, accept: Callable[[RunConfig], None] = lambda config: None
) -> None:
    """See that every key exists and that the configuration takes the ends of each range and every choice.

    Args:
        space: to check.
        base: configuration that trials start from.
        source: what errors call the space.
        accept: raises UserError for a configuration that its own checks pass and that still cannot be trained with.

    Raises:
        UserError: names the key or value, and the nearest key where one is unknown.
    """
    known = dict(leaves(base.model_dump(mode="json")))
    for key in space.space:
        if key in FIXED or key.startswith("data.sources"):
            raise UserError(f"{source}: '{key}' is the same for all trials of a sweep; take it out of the space")
        if key not in known and not _free_key(key, base):
            near = _nearest(key, [name for name, value in known.items() if not isinstance(value, Mapping)])
            hint = f"did you mean '{near}'?" if near else f"see 'ovseg-ray config {base.method}'"
            raise UserError(f"{source}: unknown key '{key}'; {hint}")
    for values in _probes(space):
        try:
            accept(configured(base, values))
        except UserError as error:
            shown = ", ".join(f"{key} = {value!r}" for key, value in values.items())
            raise UserError(f"{source}: {shown} is refused ({error}); narrow the range") from error


def configured(base: RunConfig, values: Mapping[str, Value]) -> RunConfig:
    """The base configuration with some keys changed.

    Args:
        base: resolved.
        values: dotted key -> value.

    Raises:
        UserError: the configuration refuses a value.
    """
    changed = merge(base.model_dump(mode="json"), nested(values))
    method = get_method(base.method)
    model = build(method.config_class, changed["model"], "model")
    config = build(RunConfig, {**changed, "model": model.model_dump(mode="json")})
    method.check_training(config.training)
    return config


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} -> {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, leaf = key.split(".")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a nested mapping; a mapping counts itself, too."""
    for key, value in tree.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")


def lookup(tree: Mapping[str, Any], key: str) -> Any:
    """Value of a dotted key.

    Raises:
        KeyError: there is none.
    """
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, Mapping):
            raise KeyError(key)
        node = node[part]
    return node


def _nearest(key: str, known: Sequence[str]) -> str | None:
    """The known key of the same last name, else the one that is spelt most alike."""
    leaf = key.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == leaf]
    near = difflib.get_close_matches(key, same or known, n=1, cutoff=0.0 if same else 0.4)
    return near[0] if near else None


def _free_key(key: str, base: RunConfig) -> bool:
    """Whether the key lies in a mapping with keys of its own choice, such as class weights, which `build` then sees."""
    try:
        configured(base, {key: 1.0})
    except (UserError, KeyError, TypeError):
        return False
    return True


def _probes(space: SweepSpace) -> Iterator[dict[str, Value]]:
    """Sets of values that between them have each end and each choice, with what the key needs of others."""
    for key, range_ in space.space.items():
        for value in range_.probes:
            needed: dict[str, Value] = {}
            _need(space, key, needed)
            yield {**needed, key: value}


def _need(space: SweepSpace, key: str, needed: dict[str, Value]) -> None:
    for parent, options in space.space[key].when.items():
        _need(space, parent, needed)
        needed[parent] = options[0]
