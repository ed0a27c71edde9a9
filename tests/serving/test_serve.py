"""`ekiben serve`: a bento by itself, by one process or several."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ekiben.packing.archive import files, write
from tests.waiting import PATIENCE_S, until

from .conftest import PARENT, folder

SERVICE = """
import os
import bentoml

@bentoml.service
class Probe:
    @bentoml.api
    async def pid(self) -> int:
        return os.getpid()

    @bentoml.api
    async def env(self, name: str) -> str:
        return os.environ.get(name, "")
"""
READY = re.compile(r"probe is served at (\S+)")


@pytest.fixture
def bento(tmp_path: Path) -> Path:
    return folder(tmp_path / "bento", SERVICE)


@contextlib.contextmanager
def serve(*arguments: str, **env: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running command, and where it says that it serves."""
    command = [sys.executable, "-m", "ekiben.cli", "serve", *arguments]
    environment = {**os.environ, **env}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        said = ""
        while (found := READY.search(said)) is None:
            if not (line := process.stdout.readline()):
                assert process.stderr is not None
                raise AssertionError(said + process.stderr.read())
            said += line
        yield process, found[1]
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


def post(where: str, path: str, body: Any) -> Any:
    """The JSON or text of an answer from http://host:port or unix:path."""
    if where.startswith("unix:"):
        connection = http.client.HTTPConnection("socket", timeout=PATIENCE_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(where.removeprefix("unix:"))
    else:
        connection = http.client.HTTPConnection(where.removeprefix("http://"), timeout=PATIENCE_S)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200
        text = answer.read()
        return json.loads(text) if answer.headers["content-type"] == "application/json" else text.decode()
    finally:
        connection.close()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_one_process_serves_a_folder_on_loopback_and_leaves_nothing(bento: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with serve(str(bento), "--port", "0", TMPDIR=str(scratch)) as (process, where):
        assert where.startswith("http://127.0.0.1:")
        assert parent_of(post(where, "/pid", {})) == process.pid
    assert process.returncode == 0
    assert list(scratch.iterdir()) == []


def test_port_says_where(bento: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with serve(str(bento), PORT=str(port)) as (_, where):
        assert where == f"http://127.0.0.1:{port}"
        done = subprocess.run(
            [sys.executable, "-m", "ekiben.cli", "serve", str(bento), "--port", str(port)],
            capture_output=True,
            text=True,
        )
        assert (done.returncode, "cannot listen" in done.stderr) == (3, True)


def test_a_tar_is_what_its_name_says(bento: Path, tmp_path: Path) -> None:
    packed = write(files(bento), tmp_path)
    named = tmp_path / f"{packed.sha256}.tar"
    packed.path.rename(named)
    cache = str(tmp_path / "cache")
    with serve(str(named), "--socket", str(tmp_path / "s"), XDG_CACHE_HOME=cache) as (process, where):
        assert where == f"unix:{tmp_path / 's'}"
        assert (tmp_path / "s").stat().st_mode & 0o077 == 0
        assert parent_of(post(where, "/pid", {})) == process.pid
        with (
            pytest.raises(AssertionError, match="another process listens there"),
            serve(str(named), "--socket", str(tmp_path / "s")),
        ):
            pass
    assert not (tmp_path / "s").exists()
    other = named.with_name("0" * 64 + ".tar")
    named.rename(other)
    done = subprocess.run([sys.executable, "-m", "ekiben.cli", "serve", str(other)], capture_output=True, text=True)
    assert done.returncode == 5
    assert "0000" in done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [("nowhere", "There is no bento at nowhere"), ("/tmp", "is no bento"), ("no.tar", "There is no bento at no.tar")],
)
def test_what_is_no_bento_is_named(name: str, said: str) -> None:
    done = subprocess.run([sys.executable, "-m", "ekiben.cli", "serve", name], capture_output=True, text=True)
    assert (done.returncode, said in done.stderr) == (3, True)


def test_several_processes_share_a_port_and_their_metrics_and_one_that_dies_is_replaced(bento: Path) -> None:
    with serve(str(bento), "--port", "0", "--workers", "2") as (process, where):
        pids = until(lambda: len(found := {post(where, "/pid", {}) for _ in range(20)}) == 2 and found, "both answer")
        assert process.pid not in pids

        def counted() -> float:
            connection = http.client.HTTPConnection(where.removeprefix("http://"))
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
            connection.close()
            return sum(
                float(line.rpartition(" ")[2])
                for line in text.splitlines()
                if line.startswith('bentoml_service_request_total{endpoint="/pid"')
            )

        post(where, "/pid", {})
        total = until(lambda: (now := counted()) >= 21 and now, "the counts of both are there")
        killed = pids.pop()
        os.kill(killed, signal.SIGKILL)
        until(lambda: len({post_or_none(where) for _ in range(20)} - {None, killed}) == 2, "another one is there")
        assert until(lambda: counted() >= total), "what the dead one has counted is not lost"
    assert process.returncode == 0


@pytest.mark.parametrize("how", ["os._exit(70)", "os.kill(os.getpid(), 9)"])
def test_one_worker_that_ends_is_replaced_and_who_comes_meanwhile_waits(tmp_path: Path, how: str) -> None:
    mortal = (
        SERVICE
        + f"""
    @bentoml.api
    async def die(self) -> int:
        {how}
"""
    )
    with serve(str(folder(tmp_path / "bento", mortal)), "--port", "0") as (process, where):
        first = post(where, "/pid", {})
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            post(where, "/die", {})
        second = post(where, "/pid", {})
        assert second != first
        assert parent_of(second) == process.pid
    assert process.returncode == 0


def test_a_worker_that_begins_anew_is_still_watched_over(tmp_path: Path) -> None:
    """It finds out late that it needs BentoML itself, and keeps its number, its socket and whom it belongs to."""
    hidden = SERVICE + "    @getattr(bentoml, 'ta' + 'sk')\n    def later(self) -> int:\n        return 1\n"
    with serve(str(folder(tmp_path / "bento", hidden)), "--port", "0", TMPDIR=str(tmp_path)) as (process, where):
        worker = post(where, "/pid", {})
        assert parent_of(worker) == process.pid
        os.kill(worker, signal.SIGKILL)
        again = post(where, "/pid", {})
        assert (again != worker, parent_of(again)) == (True, process.pid)
        process.kill()
        until(lambda: not Path(f"/proc/{again}").exists(), "it has ended")


def test_a_worker_does_not_outlive_the_process_that_it_was_started_by(bento: Path, tmp_path: Path) -> None:
    with serve(str(bento), "--port", "0", TMPDIR=str(tmp_path)) as (process, where):
        worker = post(where, "/pid", {})
        process.kill()
        until(lambda: not Path(f"/proc/{worker}").exists(), "it has ended")


def test_the_process_beside_the_worker_imports_next_to_nothing(bento: Path) -> None:
    """It is there as long as the worker is, and it is what stands before the worker's start."""
    program = (
        "import importlib, json, runpy, sys; parent = runpy.run_path(sys.argv[1]); parent['make_package'](); "
        "importlib.import_module('_ekiben_serving.alone'); print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(PARENT)], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert {name for name in loaded if name.startswith("_ekiben_serving.")} == {
        f"_ekiben_serving.{name}" for name in ("alone", "forked", "listening", "loading")
    }
    assert not loaded & {"asyncio", "ast", "inspect", "logging", "subprocess", "typer", "ekiben", "pydantic", "yaml"}


def post_or_none(where: str) -> Any:
    try:
        return post(where, "/pid", {})
    except OSError:  # it was the dying one that had accepted
        return None


def test_when_several_end_nobody_who_got_through_is_hung_up_on(bento: Path) -> None:
    lost: list[Exception] = []
    answered: list[int] = []
    with serve(str(bento), "--port", "0", "--workers", "2") as (process, where):

        def hammer() -> None:
            while True:
                try:
                    answered.append(post(where, "/pid", {}))
                except ConnectionRefusedError:
                    return
                except Exception as error:
                    lost.append(error)

        hammers = [threading.Thread(target=hammer) for _ in range(4)]
        for each in hammers:
            each.start()
        until(lambda: len(answered) > 50)
        process.terminate()
        for each in hammers:
            each.join()
    assert lost == []
    assert process.returncode == 0


def test_a_service_that_does_not_start_ends_the_command_with_its_traceback(tmp_path: Path) -> None:
    broken = folder(tmp_path / "bento", SERVICE + "\nraise RuntimeError('no licence')\n")
    for workers in ("1", "2"):
        command = [sys.executable, "-m", "ekiben.cli", "serve", str(broken), "--port", "0", "--workers", workers]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, "no licence" in done.stderr) == (1, True)


def test_which_interpreter_has_the_lock_is_looked_up_once(bento: Path, tmp_path: Path) -> None:
    lock = bento / "env" / "python" / "requirements.txt"
    lock.parent.mkdir(parents=True)
    lock.write_text("pydantic\n")
    program = (
        f"import pathlib, sys; from ekiben.cli.server import _python; print(_python(pathlib.Path({str(bento)!r}))); "
        "print('packaging' in sys.modules)"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def looked() -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
        ).stdout.split()

    assert looked() == [sys.executable, "True"]
    assert looked() == [sys.executable, "False"]
    lock.write_text("pydantic\nhttptools\n")  # another lock is another question
    assert looked() == [sys.executable, "True"]
