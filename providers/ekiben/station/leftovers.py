"""What a killed station has left half done in its state directory. The next one, which alone holds the lock, takes it away."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ekiben.packing import archive

__all__ = ["keep_code", "sweep"]

# The names of files that are written aside and renamed when they are whole: all hidden, and only the station writes them.
HALF_DONE = (
    ".*.tmp", ".station.json.*", ".token.*", "code/.*.tmp", "bentos/.*.tmp", "buckets/.*.gone",
)  # fmt: skip


def sweep(state_dir: Path) -> None:
    """Delete what was half written, half unpacked or half deleted."""
    for path in _half_done(state_dir):
        _delete(path)


def keep_code(state_dir: Path, digests: Iterable[str]) -> None:
    """Delete the unpacked code of all other digests; the archives stay in their buckets."""
    needed = set(digests)
    for path in (state_dir / "code").glob("[!.]*"):
        if path.name not in needed:
            _delete(path)


def _half_done(state_dir: Path) -> Iterator[Path]:
    for pattern in HALF_DONE:
        yield from state_dir.glob(pattern)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        archive.remove(path)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
