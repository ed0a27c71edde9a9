"""Streams of CloudWatch Logs: of what is told, and of a file that a process appends to."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

from moto.logs.exceptions import ResourceAlreadyExistsException
from moto.logs.models import logs_backends

from ekiben.emulators.aws import roles

__all__ = ["Log", "append"]

CHUNK_BYTES = 1 << 20


def append(account: str, region: str, group: str, stream: str, text: str) -> None:
    """Add the lines of `text` to a stream; it and its group are made where they are not there."""
    backend, now_ms = logs_backends[account][region], int(time.time() * 1000)
    backend.ensure_log_group(group)
    with suppress(ResourceAlreadyExistsException):
        backend.create_log_stream(group, stream)
    events = [{"timestamp": now_ms, "message": line} for line in text.splitlines() if line]
    if events:
        backend.put_log_events(group, stream, events)


class Log:
    """`path` is the file, of which `send` takes over the whole lines that are new, `last` what is left, if `role` may log."""

    def __init__(self, path: Path, group: str, stream: str, account: str, region: str, role: str = "") -> None:
        self.path, self._where = path, (account, region, group, stream)
        self._may = not role or roles.may_log(role, region, group, stream)
        self._offset = 0
        self._lock = threading.Lock()
        logs_backends[account][region].ensure_log_group(group)

    def send(self, *, last: bool = False) -> None:
        with self._lock:
            if self._may and self.path.exists():
                self._send(last)

    def _send(self, last: bool) -> None:
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read(CHUNK_BYTES)
            while data:
                whole = data[: data.rfind(b"\n") + 1]
                whole = data if not whole and (last or len(data) == CHUNK_BYTES) else whole
                if not whole:
                    return
                self._offset += len(whole)
                append(*self._where, whole.decode("utf-8", "replace"))
                file.seek(self._offset)
                data = file.read(CHUNK_BYTES)
