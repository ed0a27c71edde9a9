"""Start and stop the station of a state directory from another program."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from ekiben import daemon
from ekiben.errors import AlreadyExists, ProviderError, Unavailable
from ekiben.station.client import Client, running

__all__ = ["command", "ensure", "running", "stop", "tail"]

START_S = 60.0
STOP_S = 90.0
POLL_S = 0.02
LOG_LINES = 20
REFUSAL = re.compile(r"local: cannot (.+?): (.+?)\. (.+)\.", re.DOTALL)


def ensure(state_dir: Path | str, *, project: str, stack: str, port: int = 0) -> Client:
    """A client of the station of `state_dir`, which is started, detached, when none runs. Returns when it answers.

    port 0 keeps the port it had, or takes a free one. Raises AlreadyExists when it runs on another port than the one asked for,
    and Unavailable, with the end of its log, when it does not start.
    """
    state_dir = _absolute(state_dir)
    client = Client(state_dir)
    for patience in (1, 0):
        if not running(state_dir):
            _start(state_dir, project, stack, port)
        try:
            client.request("GET", "/readyz", timeout_s=START_S)
            break
        except Unavailable:
            # One that was just dying when we looked is gone now: start another.
            if running(state_dir) or not patience:
                raise
    at = int(client.url.rpartition(":")[2])
    if port not in (0, at):
        raise AlreadyExists(
            "local", f"start the station of {state_dir} on port {port}", f"it runs already, on port {at}",
            "Stop it first (`ekiben station --stop`), or leave the port as it is",
        )  # fmt: skip
    return client


def stop(state_dir: Path | str) -> None:
    """Stop the station of `state_dir` in order, and return when it is gone; silent where none runs. Raises Unavailable."""
    state_dir = _absolute(state_dir)
    if not running(state_dir):
        return
    terminated, patience_s = False, STOP_S / 2
    try:
        Client(state_dir).request("POST", "/v1/stop", timeout_s=5)
    except ProviderError:  # it hangs, or its token is lost
        patience_s = 0.0
    started = time.monotonic()
    while running(state_dir):
        waited = time.monotonic() - started
        if waited > STOP_S:
            raise Unavailable(
                "local", f"stop the station of {state_dir}", f"it still runs after {STOP_S:g} s",
                f"Look at {state_dir / 'station.log'}, and end the process {_pid(state_dir)} yourself",
            )  # fmt: skip
        if waited >= patience_s and not terminated:
            terminated = True
            with suppress(ProcessLookupError):
                os.kill(_pid(state_dir), signal.SIGTERM)
        time.sleep(POLL_S)


def command(state_dir: Path, *, project: str, stack: str, port: int = 0) -> list[str]:
    """The command that runs a station in the foreground; with --detach behind it, in the background."""
    return [
        sys.executable, "-P", "-m", "ekiben.station",
        "--state-dir", str(state_dir), "--project", project, "--stack", stack, "--port", str(port),
    ]  # fmt: skip


def environment() -> dict[str, str]:
    """What a station inherits: not the secrets that the Pulumi engine hands to its plugins, nor a function's token."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PULUMI_", "EKIBEN_"))}
    if "PYTHONPATH" in env:
        env["PYTHONPATH"] = os.pathsep.join(str(Path(part).resolve()) for part in env["PYTHONPATH"].split(os.pathsep))
    return env


def tail(path: Path, lines: int = LOG_LINES) -> str:
    """The last lines of a log; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 200 * lines))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


def _start(state_dir: Path, project: str, stack: str, port: int) -> None:
    daemon.prepare(state_dir, "local")
    try:
        done = subprocess.run(
            [*command(state_dir, project=project, stack=stack, port=port), "--detach"],
            cwd=state_dir, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_S,
            check=False,
        )  # fmt: skip
        said = done.stderr.strip()
    except subprocess.TimeoutExpired:
        said = f"it did not answer within {START_S:g} s"
    else:
        # Another process may have started it at the same time: then this one was refused, and all is well.
        if done.returncode == 0 or running(state_dir):
            return
    if own := REFUSAL.fullmatch(said):
        raise Unavailable("local", *own.groups())
    log = tail(state_dir / "station.log").strip()
    raise Unavailable(
        "local", f"start the station of {state_dir}", said.rstrip(".") or "it ended at once",
        "Mend that and try again" + (f". The end of {state_dir / 'station.log'}:\n{log}" if log else ""),
    )  # fmt: skip


def _absolute(state_dir: Path | str) -> Path:
    return Path(state_dir).expanduser().resolve()


def _pid(state_dir: Path) -> int:
    try:
        return int((state_dir / "station.lock").read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise Unavailable(
            "local", f"stop the station of {state_dir}", "its lock file names no process", "End it yourself"
        ) from error
