"""Start, find and stop the emulated AWS of a state folder from another program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ekiben import daemon
from ekiben.errors import AlreadyExists, Unavailable
from ekiben.station.client import locked
from ekiben.station.launch import tail

__all__ = ["REGION", "Server", "ensure", "running", "stop"]

LOCK, ABOUT, LOG = "aws.lock", "aws.json", "aws.log"
REGION = "us-east-1"
START_S = 60.0
STOP_S = 60.0
POLL_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Server:
    """An emulated AWS that answers at `url`. born: another one for each that is started, all of which begin empty."""

    state_dir: Path
    url: str
    pid: int
    born: str
    iam: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """What SDKs and the stand-in plugin need to reach it. The keys are not checked, and open nothing elsewhere."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "emulated",
            "AWS_SECRET_ACCESS_KEY": "emulated",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            # A profile of the user's own has no say here.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


def running(state_dir: Path | str) -> bool:
    """Does an emulated AWS live in `state_dir`?"""
    return locked(_absolute(state_dir) / LOCK)


def ensure(state_dir: Path | str, *, port: int = 0, iam: bool = False) -> Server:
    """The emulated AWS of `state_dir`, which is started, detached, when none runs. Returns when it answers.

    What it holds is in its memory: a new one is empty. port 0 keeps the port that the last one had, or takes a free one. iam: each
    request is judged by the policies of the role that makes it; the keys of `Server.environment` are the account owner's.
    Raises AlreadyExists when it runs on another port than the one asked for, or judges nobody where it should; and Unavailable,
    with the end of its log, when it does not start.
    """
    state_dir = _absolute(state_dir)
    if not running(state_dir):
        _start(state_dir, port, iam)
    deadline = time.monotonic() + START_S
    while (found := _found(state_dir)) is None:
        if not running(state_dir) or time.monotonic() > deadline:
            raise _failed(state_dir, "it ended at once" if time.monotonic() < deadline else "it does not answer")
        time.sleep(POLL_S)
    at = int(found.url.rpartition(":")[2])
    if port not in (0, at):
        raise AlreadyExists(
            "aws", f"start the emulator of {state_dir} on port {port}", f"it runs already, on port {at}",
            "Stop it first, or leave the port as it is",
        )  # fmt: skip
    if iam and not found.iam:
        raise AlreadyExists(
            "aws", f"have the emulator of {state_dir} judge requests", "it runs already, and lets everybody do everything",
            "Stop it first",
        )  # fmt: skip
    return found


def stop(state_dir: Path | str) -> None:
    """Stop the emulated AWS of `state_dir` with all that it runs, and return when it is gone; silent where none runs.

    Raises Unavailable when it does not end.
    """
    state_dir = _absolute(state_dir)
    started = time.monotonic()
    told = False
    while running(state_dir):
        if not told:
            with suppress(OSError, ValueError):
                os.kill(int((state_dir / LOCK).read_text(encoding="ascii")), signal.SIGTERM)
                told = True
        if time.monotonic() - started > STOP_S:
            raise Unavailable(
                "aws", f"stop the emulator of {state_dir}", f"it still runs after {STOP_S:g} s",
                f"Look at {state_dir / LOG}, and end the process yourself",
            )  # fmt: skip
        time.sleep(POLL_S)


def _start(state_dir: Path, port: int, iam: bool) -> None:
    daemon.prepare(state_dir, "aws")
    # Nothing of an account of the user's own: what runs in the emulator meets the emulator.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PULUMI_", "EKIBEN_"))}
    command = [sys.executable, "-P", "-m", "ekiben.emulators.aws.server", "--state-dir", str(state_dir)]
    command += ["--iam"] if iam else []
    try:
        done = subprocess.run(
            [*command, "--port", str(port), "--detach"], cwd=state_dir, env=env, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=START_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise _failed(state_dir, f"it did not answer within {START_S:g} s") from error
    # Another program may have started it at the same time: then this one was refused, and all is well.
    if done.returncode != 0 and not running(state_dir):
        raise _failed(state_dir, done.stderr.strip() or "it ended at once")


def _found(state_dir: Path) -> Server | None:
    try:
        about = json.loads((state_dir / ABOUT).read_text(encoding="utf-8"))
        alive = (state_dir / LOCK).read_text(encoding="ascii") == str(about["pid"])
        if not alive:
            return None
        return Server(state_dir=state_dir, url=about["url"], pid=about["pid"], born=about["born"], iam=about["iam"])
    except (OSError, ValueError, KeyError):
        return None


def _failed(state_dir: Path, why: str) -> Unavailable:
    log = tail(state_dir / LOG).strip()
    return Unavailable(
        "aws", f"start the emulator of {state_dir}", why.rstrip("."),
        "Mend that and try again" + (f". The end of {state_dir / LOG}:\n{log}" if log else ""),
    )  # fmt: skip


def _absolute(state_dir: Path | str) -> Path:
    return Path(state_dir).expanduser().resolve()
