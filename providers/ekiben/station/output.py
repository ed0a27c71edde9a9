"""What a process prints: read as it comes, the first part of it kept and the end of the rest, on a full disk too."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

__all__ = ["JobLog", "Pump"]

LOG_BYTES = 256 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
LINE_BYTES = 64 * 1024
TAIL_BYTES = 64 * 1024


class Pump:
    """A thread that reads the pipe `fd`, which is its own, until its end and hands on what comes, in blocks of whole lines.

    Past `limit_bytes` only the last TAIL_BYTES are handed on, at the end, with how much was left out. A line longer than
    LINE_BYTES is cut.
    """

    def __init__(self, fd: int, write: Callable[[bytes], None], limit_bytes: int) -> None:
        self._fd, self._write, self._left_bytes = fd, write, limit_bytes
        self._tail, self._dropped_bytes = b"", 0
        self._last = b""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def last_line(self) -> str:
        """The last line that was not blank."""
        return self._last.decode(errors="replace").strip()

    def join(self, within_s: float) -> None:
        """Wait until all that was printed has been handed on."""
        self._thread.join(within_s)

    def _run(self) -> None:
        with open(self._fd, "rb", buffering=0) as pipe:
            self._read(pipe)

    def _read(self, pipe: IO[bytes]) -> None:
        rest = b""
        while chunk := pipe.read(CHUNK_BYTES):
            read = rest + chunk
            cut = read.rfind(b"\n") + 1
            block, rest = read[:cut], read[cut:]
            if len(rest) > LINE_BYTES:
                block, rest = read + b"\n", b""
            if block:
                self._take(block.replace(b"\r\n", b"\n"))
        if rest:
            self._take(rest.rstrip(b"\r") + b"\n")
        if self._dropped_bytes:
            self._write(b"ekiben: %d bytes are left out here\n" % self._dropped_bytes)
        if self._tail:
            self._write(self._tail)

    def _take(self, block: bytes) -> None:
        if text := block.rstrip():
            self._last = text[text.rfind(b"\n") + 1 :]
        if self._left_bytes > 0:
            self._left_bytes -= len(block)
            self._write(block)
            if self._left_bytes <= 0:
                self._write(b"ekiben: that is too much; of what follows the end is kept\n")
            return
        tail = self._tail + block
        kept = tail[-TAIL_BYTES:]
        if len(tail) > TAIL_BYTES:
            kept = kept[kept.find(b"\n") + 1 :]
        self._dropped_bytes += len(tail) - len(kept)
        self._tail = kept


class JobLog:
    """A run's log: the lines of all nodes as they come. What a full disk does not take is counted, and told when it does again."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()
        self._lost_bytes = 0

    @property
    def room_bytes(self) -> int:
        """What a job may still print into it."""
        return max(0, LOG_BYTES - os.fstat(self._fd).st_size)

    def write(self, block: bytes) -> None:
        """Add lines, each with its newline."""
        with self._lock:
            if self._lost_bytes:
                said = b"\nekiben: the disk was full, and %d bytes of the log are lost here\n" % self._lost_bytes
                if self._put(said):
                    self._lost_bytes += len(block)
                    return
                self._lost_bytes = 0
            self._lost_bytes += self._put(block)

    def note(self, text: str) -> None:
        """Add a line of Ekiben's own."""
        self.write(f"ekiben: {text}\n".encode(errors="replace"))

    def close(self) -> None:
        os.close(self._fd)

    def _put(self, block: bytes) -> int:
        """How many of the bytes could not be written."""
        left = memoryview(block)
        with contextlib.suppress(OSError):
            while left:
                left = left[os.write(self._fd, left) :]
        return len(left)
