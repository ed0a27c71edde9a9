"""Who runs this, as far as their machine knows."""

from __future__ import annotations

import getpass
import socket

__all__ = ["whoami"]


def whoami() -> str:
    """user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without an entry, as in some containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
