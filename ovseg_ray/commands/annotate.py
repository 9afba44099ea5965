"""A configuration as YAML in which every key says what it does and what it may be."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Literal, get_args, get_origin

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

COMMENT_COLUMN = 44
BOUNDS = (
    (annotated_types.Gt, "gt", ">"),
    (annotated_types.Ge, "ge", ">="),
    (annotated_types.Lt, "lt", "<"),
    (annotated_types.Le, "le", "<="),
)


def annotated_yaml(config: BaseModel, depth: int = 0, skip: Container[str] = ()) -> str:
    """Every key with its value, and behind it a comment: what it does, what it may be.

    Args:
        config: a configuration; nested ones are indented under their key.
        depth: how deep it is indented itself.
        skip: keys left out.

    Returns:
        YAML that reads back to the same configuration.
    """
    lines = []
    pad = "  " * depth
    for name, field in type(config).model_fields.items():
        if name in skip:
            continue
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            summary = (type(value).__doc__ or "").strip().splitlines()[:1]
            lines += [_line(f"{pad}{name}:", *summary), annotated_yaml(value, depth + 1)]
        elif isinstance(value, list) and value and all(isinstance(item, BaseModel) for item in value):
            lines.append(_line(f"{pad}{name}:", field.description))
            for item in value:
                first, *rest = annotated_yaml(item, depth + 1).splitlines()
                lines += [f"{pad}- {first.lstrip()}", *rest]
        else:
            plain = config.model_dump(mode="json", include={name})[name]
            dumped = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=1000)
            text = dumped.removesuffix("...\n").strip()  # the end mark that a bare scalar gets
            lines.append(_line(f"{pad}{name}: {text}", field.description, _allowed(field)))
    return "\n".join(lines)


def _line(left: str, *notes: str | None) -> str:
    comment = "  ".join(note for note in notes if note)
    return f"{left:<{COMMENT_COLUMN - 1}} # {comment}" if comment else left


def _allowed(field: FieldInfo) -> str:
    """What values a key takes, where that is narrower than its type."""
    choices = _choices(field.annotation)
    if choices:
        return f"[{' | '.join(map(str, choices))}]"
    bounds = [
        f"{sign} {getattr(bound, attribute):g}"
        for kind, attribute, sign in BOUNDS
        for bound in field.metadata
        if isinstance(bound, kind)
    ]
    return f"[{' and '.join(bounds)}]" if bounds else ""


def _choices(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(choice for part in get_args(annotation) for choice in _choices(part))
