"""Waiting for what must come, in one place: no longer than needed, and without giving up on a machine that is busy."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["PATIENCE_S", "alive", "until"]

PATIENCE_S = 900.0 if os.environ.get("EKIBEN_LIVE") else 120.0
T = TypeVar("T")


def until(look: Callable[[], T], what: str = "") -> T:
    """What `look` returns once it is true; fails with `what` should come and what it returned last.

    It looks often at first, and never less than four times a second: what looks takes from what it waits for.
    """
    begun = time.monotonic()
    while not (found := look()):
        waited = time.monotonic() - begun
        assert waited < PATIENCE_S, f"it never came true: {what or 'still'} {found!r}"
        time.sleep(min(0.25, max(0.02, waited / 20)))
    return found


def alive(pid: int) -> bool:
    """Does a process run? One that has ended, and that nobody has asked how, does not."""
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return bool(found) and not found.startswith("Z")
