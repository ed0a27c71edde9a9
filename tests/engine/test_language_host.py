"""The language host over gRPC, with a stand-in for Pulumi's executor."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2, struct_pb2
from pulumi.runtime.proto import language_pb2 as language, language_pb2_grpc

from ekiben import engine
from tests.waiting import PATIENCE_S, until

EXECUTOR = """
import json, os, sys, time
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
program = sys.argv[-1]
if "slow" in program:
    open(os.path.join(os.path.dirname(program), "ready"), "w").close()
    time.sleep(600)
sys.exit({"shown": 32, "broken": 7}.get(os.path.basename(program), 0))
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Any]:
    """A host as the engine starts it: by the shim, its port on the first line of stdout."""
    shim = tmp_path / "cli" / "pulumi-language-python"
    shim.parent.mkdir()
    shutil.copy(Path(engine.__file__).parent / shim.name, shim)
    shim.with_name("pulumi-language-python-exec").write_text(EXECUTOR)
    process = subprocess.Popen(
        [str(shim), "127.0.0.1:1"], stdout=subprocess.PIPE, text=True, env={**os.environ, "VIRTUAL_ENV": sys.prefix}
    )
    assert process.stdout is not None
    with grpc.insecure_channel(f"127.0.0.1:{int(process.stdout.readline())}") as channel:
        stub = language_pb2_grpc.LanguageRuntimeStub(channel)
        stub.process = process
        yield stub
    process.terminate()
    assert process.wait(PATIENCE_S) == 0, "it ends quietly"


def info(root: Path, entry: str = ".", **options: str) -> language.ProgramInfo:
    given = struct_pb2.Struct()
    given.update(options)
    return language.ProgramInfo(root_directory=str(root), program_directory=str(root), entry_point=entry, options=given)


def run(host: Any, root: Path, entry: str = ".", **options: str) -> language.RunResponse:
    return host.Run(
        language.RunRequest(project="p", stack="s", pwd=str(root), parallel=1, info=info(root, entry, **options))
    )


@pytest.mark.parametrize(
    ("entry", "error", "bail"), [(".", "", False), ("shown", "", True), ("broken", "status 7", False)]
)
def test_how_a_program_ended_is_told(host: Any, tmp_path: Path, entry: str, error: str, bail: bool) -> None:
    answer = run(host, tmp_path, entry)
    assert answer.bail is bail
    assert error in answer.error
    assert bool(error) == bool(answer.error)


def test_the_virtual_environment_of_the_project_is_used(host: Any, tmp_path: Path) -> None:
    with pytest.raises(grpc.RpcError) as told:
        run(host, tmp_path, virtualenv="venv")
    assert "which Pulumi.yaml names, is not there" in str(told.value.details())
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    assert run(host, tmp_path, virtualenv="venv").error == ""
    about = host.About(language.AboutRequest(info=info(tmp_path, virtualenv="venv")))
    assert about.executable == str(tmp_path / "venv" / "bin" / "python")
    assert about.version.startswith("3.")


def test_what_the_engine_asks_first(host: Any, tmp_path: Path) -> None:
    host.Handshake(language.LanguageHandshakeRequest(engine_address="127.0.0.1:2"))
    assert host.GetPluginInfo(empty_pb2.Empty()).version
    assert not host.GetRequiredPackages(language.GetRequiredPackagesRequest(info=info(tmp_path))).packages
    found = host.GetProgramDependencies(language.GetProgramDependenciesRequest(info=info(tmp_path))).dependencies
    assert "pulumi" in {one.name for one in found}
    assert not host.RuntimeOptionsPrompts(language.RuntimeOptionsRequest(info=info(tmp_path))).prompts


def test_cancel_ends_a_program(host: Any, tmp_path: Path) -> None:
    ended: list[Any] = []
    thread = threading.Thread(target=lambda: ended.append(run(host, tmp_path, "slow")))
    thread.start()
    until((tmp_path / "ready").exists, "the program runs")
    host.Cancel(empty_pb2.Empty())
    thread.join(PATIENCE_S)
    assert ended[0].bail is True
    assert signal.SIGTERM.name in ended[0].error


def test_a_plugin_is_run_and_its_lines_are_passed_on(host: Any, tmp_path: Path) -> None:
    (tmp_path / "__main__.py").write_text(
        "import os, sys\nprint(os.environ['WHAT'], *sys.argv[1:])\nprint('oh', file=sys.stderr)\nsys.exit(3)\n"
    )
    request = language.RunPluginRequest(pwd=str(tmp_path), args=["a", "b"], env=["WHAT=hi=ho"], info=info(tmp_path))
    answers = list(host.RunPlugin(request))
    assert b"".join(answer.stdout for answer in answers) == b"hi=ho a b\n"
    assert b"".join(answer.stderr for answer in answers) == b"oh\n"
    assert answers[-1].exitcode == 3


def test_an_engine_that_is_gone_takes_its_host_along(tmp_path: Path) -> None:
    (tmp_path / "exec").write_text("")
    code = (
        "import os, subprocess, sys, time\n"
        "host = subprocess.Popen([sys.executable, '-m', 'ekiben.engine.language_host'], stdout=subprocess.PIPE)\n"
        "host.stdout.readline(); print(host.pid, flush=True); os._exit(0)\n"
    )
    environ = {**os.environ, "EKIBEN_LANGUAGE_EXEC": str(tmp_path / "exec")}
    pid = int(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True).stdout
    )
    told = Path(f"/proc/{pid}/cmdline")
    until(lambda: not (told.exists() and told.read_bytes()), "the host is gone")


def test_it_loads_no_more_of_pulumi_than_its_messages_which_are_those_of_the_whole_sdk() -> None:
    program = """
import sys
from ekiben.engine import language_host
assert not [name for name in sys.modules if name.startswith("pulumi") and not name.startswith("pulumi.runtime.proto.")]
assert "opentelemetry" not in sys.modules
import pulumi, pulumi.automation, pulumi.provider.experimental.server
from pulumi.runtime.proto import LanguageRuntimeServicer, language_pb2
assert language_host.language is language_pb2
assert issubclass(language_host.Host, LanguageRuntimeServicer)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
