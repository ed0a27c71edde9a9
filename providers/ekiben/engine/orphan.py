"""A plugin must not outlive the engine that started it, however that one ended."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

__all__ = ["when_orphaned"]

POLL_S = 0.5


def when_orphaned(stop: Callable[[], object]) -> None:
    """Call `stop`, from a thread of its own, once the process that started this one is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_S)
        stop()

    threading.Thread(target=watch, daemon=True, name="orphan").start()
