"""`python leash.py PARENT COMMAND...`: run a command that does not outlive the process that started it, kill -9 of that included.

It becomes the command, so it costs some milliseconds, and it imports nothing of Ekiben. The kernel keeps the promise where it can
(Linux); elsewhere the command runs as it is.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

__all__ = ["leashed"]

PR_SET_PDEATHSIG = 1


def leashed(command: Sequence[str]) -> list[str]:
    """`command` so that it is killed when this process ends. To be waited for by the thread that starts it."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def _become(parent: int, command: list[str]) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == parent:  # else it died before the leash was on
        os.execvp(command[0], command)  # noqa: S606 - what it was given to run


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
