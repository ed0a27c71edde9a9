"""What a run keeps in the store while it goes on, so that it survives its pod: log, progress, checkpoints, attempts."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ekiben.keys import is_data
from ekiben.kubernetes.s3 import Refused, Store
from ekiben.station.contained import empty

__all__ = ["Kept"]

TICK_S = 5.0
# A log of so many bytes is stored again at most once in a second for each of them.
BYTES_PER_S = 1 << 20
STEPS = "checkpoints.json"


class Kept:
    """The folders of a run on this node, below `run_dir`, and their copies below `uri`. rank 0 keeps all; the others their log."""

    def __init__(self, store: Store, uri: str, run_dir: Path, rank: int, note: Callable[[str], None]) -> None:
        self._store, self._uri, self._run_dir, self._rank, self._note = store, uri, run_dir, rank, note
        self._known: dict[str, tuple[int, int]] = {}
        self._over = threading.Event()
        self._one = threading.Lock()
        self.log_uri = f"{uri}/log.txt" if rank == 0 else f"{uri}/log-{rank}.txt"
        self._next_log = 0.0

    def earlier(self, name: str) -> bytes:
        """An object that an earlier pod has stored; empty where there is none."""
        try:
            return self._store.get(f"{self._uri}/{name}")
        except Refused as error:
            if error.status != 404:
                raise
            return b""

    def begin(self, also: Callable[[], None]) -> None:
        """Store what changes, every some seconds, until `finish`. `also` is called before each time."""

        def keep() -> None:
            while not self._over.wait(TICK_S):
                try:
                    also()
                    self.store_now(log=time.monotonic() > self._next_log)
                except Exception as error:  # the store may be away for a while
                    self._note(f"not stored yet: {error}")

        threading.Thread(target=keep, daemon=True).start()

    def finish(self, *, everything: bool = True) -> None:
        """Store the rest, and no more after that. Raises what the store does."""
        self._over.set()
        if everything:
            self.store_now()

    def store_now(self, *, log: bool = True) -> None:
        """Store what has changed since the last time."""
        with self._one:
            if log:
                path = self._run_dir / "log.txt"
                began, size = time.monotonic(), path.stat().st_size
                if self._changed("log.txt", path):
                    self._store.upload(self.log_uri, path)
                self._next_log = began + size / BYTES_PER_S
            if self._rank == 0:
                self._store_folder("output")
                self._store_folder("checkpoints")

    def put(self, name: str, data: bytes) -> None:
        """Store an object of the run."""
        self._store.put(f"{self._uri}/{name}", data)

    def replace(self, part: str) -> None:
        """Store a folder in the place of what is stored there, whole."""
        folder, there = self._run_dir / part, {uri for uri, _ in self._store.list(f"{self._uri}/{part}/")}
        mine = {f"{self._uri}/{part}/{path.relative_to(folder).as_posix()}": path for path in _files(folder)}
        for uri, path in mine.items():
            self._store.upload(uri, path)
        for uri in there - set(mine):
            self._store.delete(uri)

    def restore(self) -> None:
        """Make the checkpoints here those that are stored: of the steps that are stored half nothing."""
        root = self._run_dir / "checkpoints"
        with self._one:
            empty(root)
            whole = set(json.loads(self.earlier(STEPS) or b"[]"))
            start = f"{self._uri}/checkpoints/"
            for uri, _ in list(self._store.list(start)):
                name = uri.removeprefix(start)
                step = name.partition("/")[0]
                if "/" not in name or not step.startswith("step-") or step in whole:
                    self._store.download(uri, root / name)
            self._known = {name: seen for name, seen in self._known.items() if not name.startswith("checkpoints/")}
            for path in _files(root):
                self._changed(f"checkpoints/{path.relative_to(root).as_posix()}", path)

    def _store_folder(self, part: str) -> None:
        folder = self._run_dir / part
        before = sorted(name for name in self._known if name.startswith(f"{part}/"))
        there = {f"{part}/{path.relative_to(folder).as_posix()}": path for path in _files(folder)}
        changed = False
        for name, path in there.items():
            with contextlib.suppress(FileNotFoundError):  # a job may delete its own files meanwhile
                if self._changed(name, path):
                    self._store.upload(f"{self._uri}/{name}", path)
                    changed = True
        gone = [name for name in before if name not in there]
        if part == "checkpoints" and (changed or gone):
            steps = {name.split("/")[1] for name in there if name.count("/") > 1}
            self.put(STEPS, json.dumps(sorted(steps)).encode())
        for name in gone:
            self._store.delete(f"{self._uri}/{name}")
            del self._known[name]

    def _changed(self, name: str, path: Path) -> bool:
        stat = path.stat()
        seen = (stat.st_mtime_ns, stat.st_size)
        changed, self._known[name] = self._known.get(name) != seen, seen
        return changed


def _files(folder: Path) -> list[Path]:
    """The regular files below a folder, but for hidden and half-written ones, the oldest first."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            name = path.relative_to(folder).as_posix()
            if is_data(f"{folder.name}/{name}") and path.is_file() and not path.is_symlink():
                found.append((path.stat().st_mtime_ns, name, path))
    return [path for _, _, path in sorted(found)]
