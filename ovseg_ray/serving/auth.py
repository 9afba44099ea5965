"""Bearer tokens: only their hashes are kept, and comparing takes the same time whatever is sent."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from ovseg_ray.serving.problems import ProblemError

OPEN = frozenset({"/healthz", "/readyz"})
TOKEN_BYTES = 32


def new_token(name: str) -> tuple[str, str]:
    """A random token, and "NAME:HASH" to configure. A plain hash does: nobody guesses 256 random bits."""
    token = f"ovs_{secrets.token_urlsafe(TOKEN_BYTES)}"
    return token, f"{name}:{digest(token)}"


def digest(token: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class Tokens:
    """Those who may ask.

    Args:
        hashes: "NAME:HASH" each; none: everybody.
    """

    def __init__(self, hashes: Sequence[str]) -> None:
        self._names = [entry.partition(":")[::2] for entry in hashes]

    def check(self, authorization: str | None) -> str:
        """The name of whoever sent this header; "" where everybody may ask.

        Raises:
            ProblemError: no token, or none that is known.
        """
        if not self._names:
            return ""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise ProblemError("unauthorized", "send the header Authorization: Bearer TOKEN")
        given = digest(token.strip())
        found = ""
        for name, known in self._names:  # all of them, so that time says nothing about which one fits
            if hmac.compare_digest(given, known):
                found = name
        if not found:
            raise ProblemError("unauthorized", "this token is not known")
        return found
