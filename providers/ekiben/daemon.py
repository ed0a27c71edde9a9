"""A process that serves a folder of its own in the background: one lock, one port, one log, and a clear end of its start."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ekiben.errors import AccessDenied, AlreadyExists, EkibenError, Unavailable

__all__ = ["FAILED", "detached", "listener", "lock_is_there", "locked", "prepare"]

LOCK_PATIENCE_S = 1.0
# The exit status of a start that came to nothing.
FAILED = 5


def prepare(state_dir: Path, provider: str) -> None:
    """Make the state directory, for its owner only. Raises AccessDenied where it cannot be written."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=state_dir).close()
    except OSError as error:
        raise AccessDenied(
            provider, f"use the state directory {state_dir}", f"it cannot be written ({error.strerror})",
            "Make it writable, or choose another folder",
        ) from error  # fmt: skip


def detached(run: Callable[[Callable[[], None]], int], log_path: Path, logger: logging.Logger) -> int:
    """Fork; the child runs `run(ready)` in a session of its own. Returns when it is ready, or has said on stderr why it is not."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with open(reader, encoding="utf-8") as said:
            text = said.read()
        if text == "ready":
            return 0
        print(text or "it ended at once", file=sys.stderr)
        return FAILED
    os.close(reader)
    os.setsid()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)

    def say(text: str) -> None:
        os.write(writer, text.encode())
        os.close(writer)

    code = 1
    try:
        code = run(lambda: say("ready"))
    except EkibenError as error:
        print(error, file=sys.stderr)
        say(str(error))
    except BaseException:
        logger.exception("it failed")
    finally:
        sys.stderr.flush()
        os._exit(code)


def locked(path: Path, refusal: Callable[[str], AlreadyExists]) -> IO[str]:
    """The lock that proves that this process lives, with its number in it; held until it ends.

    Raises `refusal(the number of who has it)`.
    """
    lock = path.open("a+", encoding="ascii")
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            # Those who look whether somebody lives hold the lock for an instant.
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            lock.close()
            raise refusal(pid) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock


def lock_is_there(lock: IO[str], path: Path) -> bool:
    """False when the state directory was deleted by hand: another may be started then, and this one is nobody's."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def listener(port: int, last: int, *, backlog: int, provider: str, operation: str) -> socket.socket:
    """A socket that listens on `port`; for 0 on the `last` one, else on any free one. Raises Unavailable when it is in use."""
    for candidate in [port] if port else [last, 0]:
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind(("127.0.0.1", candidate))
            found.listen(backlog)
        except (OSError, OverflowError) as error:
            found.close()
            if port:
                why = getattr(error, "strerror", None) or str(error)
                raise Unavailable(
                    provider, f"{operation} on port {port}", f"the port cannot be had ({why})",
                    "Stop the program that uses it, choose another port, or 0 for any free one",
                ) from error  # fmt: skip
            continue
        return found
    raise Unavailable(provider, operation, "no port is free on 127.0.0.1", "Close some programs")
