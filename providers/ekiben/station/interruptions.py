"""What stops a run that has not failed, and what it costs: the work since the last checkpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from ekiben.keys import is_data

__all__ = ["beat", "from_outside", "last_beat", "last_checkpoint", "lost_s"]

# With these, others end a process; with SIGSEGV, SIGABRT and the like it ends itself.
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def from_outside(status: int) -> bool:
    """Was the process with this exit status (negative: a signal; 143: what one that obeys SIGTERM returns) ended by others?"""
    return -status in SIGNALS or status - 128 in SIGNALS


def beat(run_dir: Path) -> None:
    """Leave a sign of life: when a supervisor is gone this tells until when it was there."""
    with contextlib.suppress(OSError):
        os.utime(run_dir / "status.json")


def last_beat(run_dir: Path) -> float:
    """When the last sign of life was left (seconds since the epoch): by the supervisor, or by the job in its checkpoints."""
    signs = [last_checkpoint(run_dir)[0]]
    with contextlib.suppress(OSError):
        signs.append((run_dir / "status.json").stat().st_mtime)
    return max(signs)


def last_checkpoint(run_dir: Path) -> tuple[float, str]:
    """Of the newest whole file in the run's checkpoints the time (seconds since the epoch) and the name; (0, "") without one."""
    root = run_dir / "checkpoints"
    return max(((at, path.relative_to(root).as_posix()) for at, path in _whole(root)), default=(0.0, ""))


def lost_s(run_dir: Path, working_since: float, until: float) -> float:
    """The seconds of work, from `working_since` to `until`, that no checkpoint holds; 0 where the clock was set back meanwhile."""
    at, _ = last_checkpoint(run_dir)
    return round(max(0.0, until - max(working_since, min(at, time.time()))), 3) if working_since else 0.0


def _whole(folder: Path) -> Iterator[tuple[float, Path]]:
    """The files below `folder`, but for hidden and half-written ones."""
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(at, name)
            if is_data(name):
                with contextlib.suppress(OSError):
                    yield path.stat().st_mtime, path
