"""Names of methods. A new method is one folder and one line here."""

from __future__ import annotations

import importlib

from ovseg_ray.errors import UserError, did_you_mean
from ovseg_ray.methods.base import Method

_METHODS = {
    "clip": "ovseg_ray.methods.clip:Clip",
    "lseg": "ovseg_ray.methods.lseg:LSeg",
    "stego": "ovseg_ray.methods.stego:Stego",
}


def method_names() -> list[str]:
    """Names that `get_method` knows."""
    return sorted(_METHODS)


def get_method(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UserError: no such method; names the nearest.
    """
    if name not in _METHODS:
        hint = did_you_mean(name, _METHODS, f"known: {', '.join(method_names())}")
        raise UserError(f"method '{name}' does not exist; {hint}")
    module, _, attribute = _METHODS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
