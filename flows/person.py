"""Who runs a command: what the operating system knows of him."""

from __future__ import annotations

import getpass
import os


def user_name() -> str:
    """The user's name; `uid-NUMBER` where the system has none for him, as in a container that runs as anybody."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def person() -> str:
    """How the ledger names the user, `person:NAME`."""
    return f"person:{user_name()}"
