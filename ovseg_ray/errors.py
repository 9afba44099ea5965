"""The one exception that means "the user can mend this"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave: a file, a key, a value.

    The message is one line that names the file, key or value and the way out. The command line prints it
    on stderr and exits with code 2, without a traceback.
    """


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """The way out of a name that is not known.

    Args:
        name: as given.
        known: all that would do.
        otherwise: what to say where none of them is near.

    Returns:
        "did you mean 'lseg'?", or `otherwise`; to be put behind a semicolon.
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean '{near[0]}'?" if near else otherwise
