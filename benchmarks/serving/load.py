"""A server under load: started on one core, called from the other with wrk, looked at from outside."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["call", "first_answer", "free_port", "memory_mib", "running", "wrk"]

START_S = 120.0
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = io.open(os.getenv("WRK_BODY"), "rb")
wrk.body = file:read("*a")
file:close()
done = function(summary, latency)
  local e = summary.errors
  local errors = e.connect + e.read + e.write + e.timeout + e.status
  print(string.format("RESULT %d %d %d %d %d", summary.requests, summary.duration, errors,
    latency:percentile(50), latency:percentile(99)))
end
"""


def free_port(count: int = 1) -> list[int]:
    """Ports that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def running(argv: Sequence[str], env: Mapping[str, str], log: Path, core: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server's process on one core; ended, with all that it started, at the end."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *argv],
            env=dict(env),
            stdout=file,
            stderr=file,
            start_new_session=True,
            cwd=log.parent,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def call(port: int, path: str, body: bytes, within_s: float = 30.0) -> Any:
    """One answer. Raises OSError or http.client.HTTPException while the server does not answer 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=within_s)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise http.client.HTTPException(f"{answer.status} {text[:200]!r}")
        return json.loads(text)
    finally:
        connection.close()


def first_answer(process: subprocess.Popen[bytes], port: int, path: str, body: bytes) -> Any:
    """Ask until there is an answer. Raises RuntimeError when the process ends, or none comes."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with status {process.returncode}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            return call(port, path, body)
        time.sleep(0.005)
    raise RuntimeError(f"it gave no answer within {START_S:g} s")


def wrk(port: int, path: str, body: Path, *, connections: int, seconds: float, core: int) -> dict[str, float]:
    """requests_s, p50_ms, p99_ms and errors of wrk with one thread. Raises FileNotFoundError without wrk."""
    program = shutil.which("wrk")
    if program is None:
        raise FileNotFoundError("wrk is needed: apt-get install wrk")
    script = body.with_suffix(".lua")
    script.write_text(SCRIPT, encoding="ascii")
    command = ["taskset", "-c", str(core), program, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s",
               "-s", str(script), f"http://127.0.0.1:{port}{path}"]  # fmt: skip
    done = subprocess.run(
        command,
        env={**os.environ, "WRK_BODY": str(body)},
        capture_output=True,
        text=True,
        timeout=seconds + 90,
        check=True,
    )
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    if found is None:
        raise RuntimeError(f"wrk said: {done.stdout}{done.stderr}")
    requests, duration_us, errors, p50_us, p99_us = map(int, found.groups())
    return {
        "requests_s": requests / (duration_us / 1e6), "p50_ms": p50_us / 1e3, "p99_ms": p99_us / 1e3, "errors": float(errors),
    }  # fmt: skip


def memory_mib(process: subprocess.Popen[bytes]) -> float:
    """The memory of the process and all that it started: pages that are shared count once."""
    total, queue = 0, [process.pid]
    while queue:
        entry = Path("/proc") / str(queue.pop())
        with contextlib.suppress(OSError):
            for task in (entry / "task").iterdir():
                queue += map(int, (task / "children").read_text("ascii").split())
            found = re.search(r"^Pss:\s+(\d+)", (entry / "smaps_rollup").read_text("ascii"), re.MULTILINE)
            total += int(found[1]) if found else 0
    return total / 1024
