"""A file that a process appends to, as a stream of CloudWatch Logs."""

from __future__ import annotations

import time
from pathlib import Path

from moto.logs.models import logs_backends

__all__ = ["Log"]

GROUP = "/aws/sagemaker/TrainingJobs"
CHUNK_BYTES = 1 << 20


class Log:
    """`path` is the file; `send` takes over the whole lines that are new in it, `last` what is left."""

    def __init__(self, path: Path, stream: str, account: str, region: str) -> None:
        self.path, self._stream, self._backend = path, stream, logs_backends[account][region]
        self._offset = 0
        self._made = False
        self._backend.ensure_log_group(GROUP)

    def send(self, *, last: bool = False) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read(CHUNK_BYTES)
            while data:
                whole = data[: data.rfind(b"\n") + 1]
                whole = data if not whole and (last or len(data) == CHUNK_BYTES) else whole
                if not whole:
                    return
                self._offset += len(whole)
                self._put(whole.decode("utf-8", "replace").splitlines())
                file.seek(self._offset)
                data = file.read(CHUNK_BYTES)

    def _put(self, lines: list[str]) -> None:
        if not self._made:
            self._backend.create_log_stream(GROUP, self._stream)
            self._made = True
        now_ms = int(time.time() * 1000)
        events = [{"timestamp": now_ms, "message": line} for line in lines if line]
        if events:
            self._backend.put_log_events(GROUP, self._stream, events)
