"""A command under a warden ends with all that it started, however its owner ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ekiben.emulators.warden import Ward
from tests.waiting import PATIENCE_S, alive, until

# A child that leaves its family behind: a daemon in a session of its own.
DAEMON = "setsid sh -c 'echo $$ >daemon; exec sleep 300' & echo ready >told; "


def pid_in(path: Path) -> int:
    until(lambda: path.is_file() and path.read_text().strip())
    return int(path.read_text())


def ward(tmp_path: Path, script: str) -> Ward:
    with (tmp_path / "out").open("ab") as output:
        return Ward(["sh", "-c", script], env=dict(os.environ), cwd=tmp_path, output=output)


def test_it_says_how_the_command_ended(tmp_path: Path) -> None:
    assert ward(tmp_path, "echo out; echo err >&2; exit 7").wait(PATIENCE_S) == 7
    assert (tmp_path / "out").read_text() == "out\nerr\n"
    assert ward(tmp_path, "kill -TERM $$").wait(PATIENCE_S) == 143


def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    running = ward(tmp_path, DAEMON + "while [ ! -s daemon ]; do sleep 0.05; done")
    assert running.wait(PATIENCE_S) == 0
    until(lambda: not alive(pid_in(tmp_path / "daemon")))


def test_it_is_asked_and_then_killed(tmp_path: Path) -> None:
    running = ward(tmp_path, "trap 'echo asked >asked' TERM; " + DAEMON + "while :; do sleep 0.05; done")
    daemon = pid_in(tmp_path / "daemon")
    running.ask_to_end()
    until((tmp_path / "asked").is_file)
    assert running.wait(0) is None
    running.kill()
    assert running.wait(0) == 137
    assert not alive(daemon)


def test_it_does_not_outlive_its_owner(tmp_path: Path) -> None:
    owner = (
        "import os, pathlib, sys, time\n"
        "from ekiben.emulators.warden import Ward\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "Ward(['sh', '-c', sys.argv[2]], env=dict(os.environ), cwd=here, output=open(here / 'out', 'ab'))\n"
        "time.sleep(300)\n"
    )
    script = DAEMON + "echo $$ >main; exec sleep 300"
    process = subprocess.Popen([sys.executable, "-c", owner, str(tmp_path), script])
    pids = pid_in(tmp_path / "daemon"), pid_in(tmp_path / "main")
    process.kill()
    process.wait()
    until(lambda: not any(map(alive, pids)))
