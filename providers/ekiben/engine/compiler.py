"""One `go build`: told of now and then, ended with its compilers when it is interrupted, and its last lines in the error."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ekiben.errors import ProviderError

__all__ = ["go_build"]

LIMIT_S = 3600.0
REPORT_EVERY_S = 15.0
TAIL_LINES = 15
# Per cent that a compiler's heap may grow by between two collections, unless the user says. Compilers live for seconds: a build
# takes a fifth less of CPU time than at Go's 100, and the largest of them no more memory than its linker does anyway (2 GB).
COLLECTS_AT = "400"


def go_build(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    say: Callable[[str], None],
    failed: Callable[[str], ProviderError],
) -> None:
    """Run `command`, a `go build -v`, to its end. `say` gets a line now and then: it takes minutes.

    Raises `failed(why)` when it fails or has not ended within an hour.
    """
    begun = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={"GOGC": COLLECTS_AT, **env},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    try:
        reported = begun
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1.0)
            now = time.monotonic()
            if now - begun > LIMIT_S:
                raise failed(f"`go build` had not ended after {LIMIT_S:g} s")
            if now - reported >= REPORT_EVERY_S:
                reported = now
                fetched = sum(line.startswith("go: downloading") for line in lines)
                say(f"  {now - begun:4.0f} s: {fetched} modules downloaded, {len(lines) - fetched} packages compiled")
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    reader.join(timeout=10)
    if process.returncode != 0:
        raise failed("`go build` failed:\n" + "\n".join(lines[-TAIL_LINES:]))
    say(f"  built in {time.monotonic() - begun:.0f} s")


def _read(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())
