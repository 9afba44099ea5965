"""The one exception that means "the user can mend this"."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave: a file, a key, a value.

    The message is one line that names the file, key or value and the way out. The command line prints it
    on stderr and exits with code 2, without a traceback.
    """
