"""Rows of the prediction log in storage before their answer leaves: for hosts that sleep between answers.

AWS Lambda freezes an environment when it has answered, and takes it away when it likes; what is not in storage by then is late, or
lost. A process of its own does it (ekiben.forwarding), because the server may run in an interpreter without Ekiben.
Nothing here fails a prediction, or holds it up for longer than `TIMEOUT_S`: a row that could not be brought goes with the next.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["FORWARDING", "TIMEOUT_S", "Ahead"]

# What brings a segment to a storage, whose URI is its last word; in the interpreter that Ekiben is installed in.
FORWARDING = (sys.executable, "-P", "-m", "ekiben.forwarding")
TIMEOUT_S = 2.0

log = logging.getLogger("ekiben.predictions")


class Ahead:
    """For a server that answers one request at a time: `bring` waits. every_s: at least so long between two times."""

    def __init__(self, command: Sequence[str], every_s: float = 0.0, timeout_s: float = TIMEOUT_S) -> None:
        self._command, self._every_s, self._timeout_s = command, every_s, timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._said = b""
        self._awaited = 0
        self._next = 0.0
        self._silent = False

    def start(self) -> None:
        """Have the process ready before the first answer."""
        try:
            self._running()
        except OSError as error:
            self._failed(str(error))

    def stop(self) -> None:
        """End the process, which has nothing that is not in the segment."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
            self._process = None

    def bring(self, segment: Path) -> bool:
        """Have what the segment has in storage, unless it was brought just now. Whether all that was asked for is there."""
        at = time.time()
        if 0 <= self._next - at <= self._every_s:
            return True
        deadline = time.monotonic() + self._timeout_s
        try:
            process = self._running()
            assert process.stdin is not None
            if self._awaited and not self._answered(process, deadline):  # of an earlier one that took too long
                raise TimeoutError("an earlier request has no answer yet")
            process.stdin.write(json.dumps(str(segment)).encode() + b"\n")
            process.stdin.flush()
            self._awaited += 1
            if not self._answered(process, deadline):
                raise TimeoutError(f"it takes longer than {self._timeout_s:g} s")
        except OSError as error:
            self._failed(str(error))
            return False
        self._next, self._silent = at + self._every_s, False
        return True

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._said, self._awaited = b"", 0
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        return self._process

    def _answered(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """Wait for all that the process was asked. Raises OSError with what it says that went wrong, or when it is gone."""
        assert process.stdout is not None
        while self._awaited:
            while b"\n" not in self._said:
                ready, _, _ = select.select([process.stdout], [], [], max(deadline - time.monotonic(), 0))
                if not ready:
                    return False
                more = os.read(process.stdout.fileno(), 65_536)
                if not more:
                    raise OSError("the process that brings them has ended")
                self._said += more
            line, _, self._said = self._said.partition(b"\n")
            self._awaited -= 1
            if why := json.loads(line):
                raise OSError(why)
        return True

    def _failed(self, why: str) -> None:
        if not self._silent:
            self._silent = True
            log.error("predictions are not in their storage before the answer, for now: %s", why)
