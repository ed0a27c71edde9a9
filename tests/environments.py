"""Environments of what cannot be beside our own packages: made once on this machine, beside those of bentos."""

from __future__ import annotations

import fcntl
from pathlib import Path

from ekiben.packing.source import cache_dir
from ekiben.station.environments import interpreter

__all__ = ["python_of"]


def python_of(folder: Path) -> Path:
    """An interpreter that has what the folder's requirements.txt names. The environment is made on first use."""
    home = cache_dir()
    home.mkdir(parents=True, exist_ok=True)
    with (home / f"{folder.name}.lock").open("w") as lock:  # two at once would make it twice
        fcntl.flock(lock, fcntl.LOCK_EX)
        return interpreter(folder / "requirements.txt")
