"""What pydantic finds wrong with a value, in plain words: one line that names the key. Needs pydantic alone."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

Location = tuple[int | str, ...]
_TYPES = {
    "string": "text",
    "bytes": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "an object with keys",
    "model": "an object with keys",
    "model_attributes": "an object with keys",
    "mapping": "an object with keys",
}
_TYPE_ENDINGS = ("_type", "_parsing", "_from_float")
_BRANCHES = ("str", "constrained-str", "int", "float", "bool", "list", "dict")  # what pydantic calls parts of a union


@dataclass(frozen=True)
class Mistake:
    """One wrong value.

    Attributes:
        key: where, with dots; "" for the whole.
        problem: what is wrong with it.
        unknown: there is no such key.
    """

    key: str
    problem: str
    unknown: bool = False

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}" if self.key else self.problem


def mistakes(errors: Iterable[Mapping[str, Any]], model: type[BaseModel] | None = None) -> list[Mistake]:
    """Each wrong value once, unknown keys first: they are the likeliest cause of any other complaint.

    Args:
        errors: as of `ValidationError.errors()`.
        model: that was wanted; an unknown key is then told its nearest known one.
    """
    groups: dict[Location, list[Mapping[str, Any]]] = {}
    for error in errors:
        groups.setdefault(_before_union(error), []).append(error)
    found = [_mistake(group, model) for group in groups.values()]
    return sorted(found, key=lambda mistake: not mistake.unknown)


def keys_at(model: type[BaseModel], location: Location) -> list[str]:
    """Keys that are known at a place within a model."""
    for part in location:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        inner = section(model.model_fields[part].annotation)
        if inner is None:
            return []
        model = inner
    return [info.alias or name for name, info in model.model_fields.items()]


def section(annotation: Any) -> type[BaseModel] | None:
    """The model within an annotation, if there is one."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _mistake(group: list[Mapping[str, Any]], model: type[BaseModel] | None) -> Mistake:
    """What is wrong with one value; of a union, the branch that fits best."""
    error = max(group, key=lambda item: (len(_keys(item)), not _wanted_type(item)))
    key = ".".join(map(str, _keys(error)))[:200]
    if error["type"] == "extra_forbidden":
        return Mistake(key, f"there is no such key{_nearest(error, model)}", unknown=True)
    wanted = list(dict.fromkeys(_wanted_type(item) for item in group if _keys(item) == _keys(error)))
    if all(wanted):
        return Mistake(key, f"must be {' or '.join(wanted)}")
    return Mistake(key, _problem(error))


def _nearest(error: Mapping[str, Any], model: type[BaseModel] | None) -> str:
    if model is None:
        return ""
    known = keys_at(model, tuple(error["loc"][:-1]))
    near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.4)
    return f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(known)}" if known else ""


def _problem(error: Mapping[str, Any]) -> str:
    kind, given = error["type"], error.get("ctx", {})
    limit = next((given[name] for name in ("le", "ge", "lt", "gt", "min_length", "max_length") if name in given), None)
    if isinstance(limit, float) and limit.is_integer():
        limit = int(limit)
    match kind:
        case "missing":
            return "is missing"
        case "less_than_equal":
            return f"must be at most {limit}"
        case "greater_than_equal":
            return f"must be at least {limit}"
        case "less_than":
            return f"must be less than {limit}"
        case "greater_than":
            return f"must be greater than {limit}"
        case "finite_number":
            return "must be a finite number"
        case "literal_error":
            return f"must be {given['expected']}"
        case "string_too_short" | "too_short":
            one = "must not be empty" if kind.startswith("string") else "must hold at least one entry"
            return one if limit == 1 else f"must have at least {limit} {_counted(kind)}"
        case "string_too_long" | "too_long":
            return f"must have at most {limit} {_counted(kind)}"
        case "string_pattern_mismatch":
            return _pattern(str(given.get("pattern", "")))
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"[:200]


def _counted(kind: str) -> str:
    return "characters" if kind.startswith("string") else "entries"


def _pattern(pattern: str) -> str:
    if ":" in pattern:
        return "must be NAME:HASH as 'ovseg-ray token NAME' prints it"
    return "may hold letters, digits, dots, dashes and underscores, 64 of them, the first a letter or a digit"


def _wanted_type(error: Mapping[str, Any]) -> str:
    """The type that was wanted where another came, else ""."""
    kind = str(error["type"])
    for ending in _TYPE_ENDINGS:
        if kind.endswith(ending):
            return _TYPES.get(kind.removesuffix(ending), "")
    return ""


def _is_branch(part: int | str) -> bool:
    return isinstance(part, str) and (part in _BRANCHES or "[" in part)


def _keys(error: Mapping[str, Any]) -> Location:
    """The location without names of branches; an unknown key may be called anything."""
    location = tuple(error["loc"])
    last = location[-1:] if error["type"] == "extra_forbidden" else ()
    return tuple(part for part in location[: len(location) - len(last)] if not _is_branch(part)) + last


def _before_union(error: Mapping[str, Any]) -> Location:
    location = tuple(error["loc"])
    end = len(location) - (error["type"] == "extra_forbidden")
    return next((location[:at] for at in range(end) if _is_branch(location[at])), location)
