"""What a killed engine leaves, and that the next one takes it up: nothing is asked of the user, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ekiben.engine import stacks
from ekiben.engine.progress import Progress
from ekiben.engine.recovery import unlock
from ekiben.errors import ProviderError
from ekiben.station import launch

from .conftest import Project

SMALL = """
lake = cloud.Storage("lake")
hello = cloud.Function("hello", ek.FunctionSpec(source="functions/hello", on=(ek.Http(),)), uses=[lake])
ek.export(lake, hello)
"""
# The program kills the engine while the station is being made: its own grandparent.
SUICIDAL = """
import os, pathlib, pulumi, signal, threading, time

def strike():
    state = pathlib.Path("../.ekiben/dev/AT")
    while not state.exists():
        time.sleep(0.002)
    parent = int(pathlib.Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)

pulumi.runtime.is_dry_run() or threading.Thread(target=strike, daemon=True).start()
lake = cloud.Storage("lake")
ek.export(lake)
"""


def checkpoint(project: Project) -> dict[str, list[object]]:
    (state,) = (project.root / ".ekiben" / ".pulumi" / "stacks").glob("*/dev.json")
    return json.loads(state.read_text())["checkpoint"]["latest"] or {}


def struck(project: Project, at: str = "") -> None:
    """An `up` whose engine was killed while the station was made, or when there was something else in its folder."""
    project.program(SUICIDAL.replace("AT", at))
    with pytest.raises(ProviderError, match=r"the engine was ended by SIGKILL\. Run it again"):
        stacks.up(project.root, "dev", progress=Progress(quiet=True))
    pending = checkpoint(project)["pending_operations"]
    assert [(one["type"], one["resource"]["type"].rpartition(":")[2]) for one in pending] == [
        ("creating", "Bucket" if at else "Host")
    ]
    project.program(SMALL)


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore:Error in event stream")  # pulumi's own, of the engine that was killed
@pytest.mark.parametrize("at", ["", "buckets/lake"], ids=["station", "bucket"])
def test_a_create_whose_end_nobody_saw_is_completed_by_up(project: Project, at: str) -> None:
    struck(project, at)
    told = project.ekiben("up")
    assert told.returncode == 0, told.stderr
    assert "pending" not in told.stderr + told.stdout
    assert not checkpoint(project).get("pending_operations")
    assert launch.running(project.state())


@pytest.mark.engine
def test_a_create_whose_end_nobody_saw_is_undone_by_destroy(project: Project) -> None:
    struck(project)
    (project.root / ".ekiben" / ".pulumi" / "stacks" / "small" / "dev.json.1f.tmp").write_text("{")
    stacks.destroy(project.root, "dev", progress=Progress(quiet=True))
    assert not project.state().exists()
    assert checkpoint(project) == {} or not set(checkpoint(project)) & {"resources", "pending_operations"}
    done = project.ekiben("inventory")
    assert (done.returncode, "nothing left" in done.stdout) == (0, True), done.stdout
    assert not list((project.root / ".ekiben").rglob("*.tmp"))


def taken_away(root: Path, pid: int, host: str = "") -> bool:
    """Is a lock of that process taken away?"""
    folder = root / ".ekiben" / ".pulumi" / "locks" / "organization" / "shop" / "dev"
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "lock.json"
    lock.write_text(json.dumps({"pid": pid, "hostname": host or socket.gethostname()}))
    assert unlock(root, "shop", "dev", lambda line: None) != lock.exists()
    return not lock.exists()


def test_a_note_beside_the_state_that_was_half_written_is_taken_away(tmp_path: Path) -> None:
    states = tmp_path / ".ekiben" / ".pulumi" / "stacks" / "shop"
    states.mkdir(parents=True)
    for name, text in {
        "dev.json": "{}",
        "dev.json.attrs": "",
        "dev.json.bak.attrs": '{"md5"',
        "qa.json.attrs": "{}",
    }.items():
        (states / name).write_text(text)
    assert unlock(tmp_path, "shop", "dev", lambda line: None)
    assert sorted(path.name for path in states.iterdir()) == ["dev.json", "qa.json.attrs"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process that lives counts as an engine")
def test_the_lock_of_a_process_that_is_no_engine_any_more(tmp_path: Path) -> None:
    engine = tmp_path / "pulumi"
    engine.symlink_to("/bin/sleep")
    with subprocess.Popen([str(engine), "600"]) as process:
        until_named(process.pid, "pulumi")
        assert not taken_away(tmp_path, process.pid), "it is at work"
        assert not taken_away(tmp_path, process.pid, "another-machine")
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert taken_away(tmp_path, process.pid), "nobody has asked how it ended"
    assert taken_away(tmp_path, process.pid)
    assert taken_away(tmp_path, os.getpid()), "the number is another program's by now"


def until_named(pid: int, name: str) -> None:
    """Popen returns before the new program is in place."""
    while Path(f"/proc/{pid}/comm").read_text().strip() != name:
        time.sleep(0.01)
