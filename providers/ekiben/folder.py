"""A local folder as an object store: what obstore is for the clouds, with update-if-match, and with no way out of it.

Writes are staged below `.ekiben/` and renamed under a lock, so they are seen whole or not at all, and of many writers at once
exactly one wins; the kernel drops the lock of a process that dies. Symbolic links are never followed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import random
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from ekiben.errors import (
    AccessDenied,
    AlreadyExists,
    IntegrityError,
    NoCapacity,
    NotFound,
    PreconditionFailed,
    ProviderError,
    Unavailable,
)
from ekiben.keys import RESERVED, hidden
from ekiben.runtime import Object

__all__ = ["FRESH_S", "Folder", "abandoned", "system_error"]

LOCK_TIMEOUT_S = 30.0
# A writer has locked what it stages before it is this old.
FRESH_S = 5.0
CHUNK_BYTES = 1 << 20

_JITTER = random.SystemRandom()

_NO_OBJECT = (NotFound, "there is no such object", "")
_DENIED = (AccessDenied, "permission denied", "Check who owns it, and its mode")
_FULL = (NoCapacity, "the disk or the quota is full", "Make room, then repeat")
# What is not here is a ProviderError with the system's own words.
_ERRORS: dict[int, tuple[type[ProviderError], str, str]] = {
    errno.ENOENT: _NO_OBJECT,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: (AccessDenied, "the file system is read-only", "Mount it for writing, or use another folder"),
    errno.ELOOP: (AccessDenied, "a symbolic link stands in its path", "Copy the file instead of linking it"),
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EISDIR: (ProviderError, "objects lie below that key, and a folder cannot be an object, too", "Use another key"),
    errno.ENOTDIR: (ProviderError, "a part of its path is an object itself", "Use another key"),
    errno.ENAMETOOLONG: (ProviderError, "the path is too long for the file system", "Use a shorter key"),
}  # fmt: skip


def system_error(provider: str, operation: str, error: OSError) -> ProviderError:
    """The error of ours for the system's."""
    kind, why, remedy = _ERRORS.get(error.errno or 0, (ProviderError, error.strerror or str(error), ""))
    return kind(provider, operation, why, remedy)


def abandoned(path: Path) -> bool:
    """Is what lies there, which its writer keeps locked as long as it works on it, without a writer?"""
    try:
        held = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if time.time() - os.fstat(held).st_mtime < FRESH_S:
            return False
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(held)


class Folder:
    """The objects below `root`, which must exist (a write does not make it)."""

    def __init__(self, root: Path, provider: str) -> None:
        self.root = root
        self.provider = provider
        self._swept = False

    def get(self, key: str) -> bytes:
        with self._reading(key), self._open(key) as file:
            return file.read()

    def chunks(self, key: str) -> Iterator[bytes]:
        with self._reading(key):
            file = self._open(key)
        with file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def range(self, key: str, start: int, end: int, etag: str) -> bytes:
        """The bytes from `start` to `end` of the object that has `etag`."""
        with self._reading(key), self._open(key) as file:
            if _etag(os.fstat(file.fileno())) != etag:
                why = "it has changed since it was read"
                raise PreconditionFailed(self.provider, f"read {key!r}", why, "Read it again")
            file.seek(start)
            return file.read(end - start)

    def head(self, key: str) -> Object:
        with self._reading(key):
            found = os.lstat(self._path(key))
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.ELOOP if stat.S_ISLNK(found.st_mode) else errno.ENOENT, "")
            return _object(key, found)

    def put(self, key: str, data: bytes | Path, *, absent: bool = False, etag: str = "", sha256: str = "") -> Object:
        """Write; with `absent` only where nothing is, with `etag` only over the object that has it, with `sha256` only the bytes
        that have it (else IntegrityError).
        """
        with self._translated(f"write {key!r}"):
            path = self._path(key)
            with _staged(self._reserved("staging"), data) as staged:
                if sha256 and (found := _digest(staged)) != sha256:
                    why = f"the sha256 of what was to be written is {found[:12]}..., not {sha256[:12]}..."
                    raise IntegrityError(self.provider, f"write {key!r}", why)
                with self._lock():
                    there = _lstat(path)
                    self._allow(key, there, absent, etag)
                    # A file written again within one tick of the file system's clock, on an inode used again, would keep its
                    # etag: so the time is set by hand, later than that of the object before.
                    at = max(time.time_ns(), there.st_mtime_ns + 1000 if there else 0)
                    os.utime(staged, ns=(at, at))
                    made = os.lstat(staged)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(staged, path)
                return _object(key, made)

    def copy(self, source: str, target: str) -> None:
        self.head(source)
        self.put(target, self._path(source))

    def delete(self, key: str) -> None:
        with self._translated(f"delete {key!r}"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path = self._path(key)
            if not stat.S_ISREG(os.lstat(path).st_mode):
                return
            with self._lock():
                path.unlink()
                for parent in path.parents:
                    if parent == self.root:
                        break
                    try:
                        parent.rmdir()
                    except OSError:
                        break

    def list(self, prefix: str) -> Iterator[Object]:
        """The objects whose key starts with `prefix`, in no order."""
        if not self.root.is_dir():
            raise self._no_root(f"list {prefix!r}")
        at = prefix[: prefix.rfind("/") + 1]
        with self._translated(f"list {prefix!r}"), contextlib.suppress(NotADirectoryError):
            yield from self._walk(self._path(f"{at}any").parent, at, prefix)

    def _walk(self, folder: Path, at: str, prefix: str) -> Iterator[Object]:
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            return
        for entry in entries:
            key = at + entry.name
            if hidden(key) or not key.startswith(prefix):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path), key + "/", "")
            elif entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    yield _object(key, entry.stat(follow_symlinks=False))

    def _allow(self, key: str, there: os.stat_result | None, absent: bool, etag: str) -> None:
        if there and stat.S_ISDIR(there.st_mode):
            raise OSError(errno.EISDIR, "")
        if absent and there:
            raise AlreadyExists(self.provider, f"create {key!r}", "an object of that key is there")
        if etag and (there is None or _etag(there) != etag):
            why = "it has changed since it was read" if there else "it is gone"
            raise PreconditionFailed(self.provider, f"update {key!r}", why, "Read it again")

    def _path(self, key: str) -> Path:
        """The path of `key`. Raises ELOOP where one of its folders is a symbolic link, ENOTDIR where it is a file."""
        path = self.root
        *folders, name = key.split("/")
        for segment in folders:
            path = path / segment
            found = _lstat(path)
            if found is None:
                break
            if not stat.S_ISDIR(found.st_mode):
                raise OSError(errno.ELOOP if stat.S_ISLNK(found.st_mode) else errno.ENOTDIR, "")
        return self.root.joinpath(*folders, name)

    def _open(self, key: str) -> IO[bytes]:
        # Without O_NONBLOCK a named pipe in the folder would hold the reader for ever.
        descriptor = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.ENOENT, "")
        return os.fdopen(descriptor, "rb")

    def _reserved(self, name: str) -> Path:
        """`.ekiben/<name>` in the root, made where absent. The files in it whose writers were killed are deleted."""
        if not self.root.is_dir():
            raise self._no_root("write to it")
        if (self.root / RESERVED).is_symlink():
            raise OSError(errno.ELOOP, "")
        folder = self.root / RESERVED / name
        folder.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            self._swept = True
            for left in folder.iterdir():
                with contextlib.suppress(OSError):
                    if abandoned(left):
                        left.unlink()
        return folder

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Alone among all threads and processes that write to this folder."""
        descriptor = os.open(
            self.root / RESERVED / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666
        )
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Unavailable(
                            self.provider, f"lock {self.root}", f"another process has held it for {LOCK_TIMEOUT_S:g} s",
                            "Find it with: fuser .ekiben/lock",
                        ) from None  # fmt: skip
                    time.sleep(_JITTER.uniform(0.0005, 0.005))
            yield
        finally:
            os.close(descriptor)

    def _reading(self, key: str) -> contextlib.AbstractContextManager[None]:
        return self._translated(f"read {key!r}", reading=True)

    @contextlib.contextmanager
    def _translated(self, operation: str, *, reading: bool = False) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if reading and error.errno == errno.ENOTDIR:
                error.errno = errno.ENOENT
            raise system_error(self.provider, operation, error) from error

    def _no_root(self, operation: str) -> NotFound:
        why = f"the folder {self.root} does not exist"
        return NotFound(self.provider, operation, why, "Make it (`ekiben up` does), or correct the URI")


@contextlib.contextmanager
def _staged(folder: Path, data: bytes | Path) -> Iterator[Path]:
    """A file with these bytes, on disk, and locked as long as it is here: an unlocked one has lost its writer."""
    path = folder / secrets.token_hex(8)
    try:
        with open(path, "xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if isinstance(data, Path):
                with open(data, "rb") as source:
                    shutil.copyfileobj(source, file, CHUNK_BYTES)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
            yield path
    finally:
        path.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _etag(found: os.stat_result) -> str:
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"


def _object(key: str, found: os.stat_result) -> Object:
    modified = datetime.fromtimestamp(found.st_mtime_ns / 1e9, UTC).isoformat(timespec="microseconds")
    return Object(key, found.st_size, _etag(found), modified.replace("+00:00", "Z"))
