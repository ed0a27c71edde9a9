"""A Python language host for the Pulumi engine, where the CLI was built from its Go module and Pulumi's own is not to be had.

The engine starts it, reads its port from the first line of stdout, and then speaks `LanguageRuntime` over gRPC. The program runs
under Pulumi's own executor script, which the shim `pulumi-language-python` names in EKIBEN_LANGUAGE_EXEC.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import grpc
from google.protobuf import empty_pb2

from ekiben import __version__
from ekiben.engine.leash import leashed
from ekiben.engine.messages import messages
from ekiben.engine.orphan import when_orphaned
from ekiben.errors import SpecError

__all__ = ["Host", "main"]

if TYPE_CHECKING:
    from pulumi.runtime.proto import language_pb2 as language, language_pb2_grpc, plugin_pb2
else:
    language, language_pb2_grpc, plugin_pb2 = messages("language_pb2", "language_pb2_grpc", "plugin_pb2")

# The executor has shown the error to the user already.
SHOWN = 32
STOP_GRACE_S = 5.0
LOOK_S = 1.0
MESSAGE_BYTES = 400 * 1024 * 1024


class Host(language_pb2_grpc.LanguageRuntimeServicer):
    """`executor`: the path of pulumi-language-python-exec; `engine`: the engine's address."""

    def __init__(self, executor: Path, engine: str = "") -> None:
        self.executor = executor
        self.engine = engine
        self._children: set[subprocess.Popen[Any]] = set()
        self._lock = threading.Lock()

    def Handshake(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.engine = request.engine_address or self.engine
        return language.LanguageHandshakeResponse()

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return plugin_pb2.PluginInfo(version=__version__)

    def About(self, request: Any, context: grpc.ServicerContext) -> Any:
        python = str(_python(request.info, context))
        told = sys.version
        if python != sys.executable:
            told = subprocess.run([python, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
        return language.AboutResponse(executable=python, version=told.removeprefix("Python ").split()[0])

    def GetRequiredPackages(self, request: Any, context: grpc.ServicerContext) -> Any:
        return language.GetRequiredPackagesResponse()  # the engine finds plugins as the resources ask for them

    def GetRequiredPlugins(self, request: Any, context: grpc.ServicerContext) -> Any:
        return language.GetRequiredPluginsResponse()

    def GetProgramDependencies(self, request: Any, context: grpc.ServicerContext) -> Any:
        code = (
            "import importlib.metadata as m, json; print(json.dumps([[d.name, d.version] for d in m.distributions()]))"
        )
        told = subprocess.run(
            [str(_python(request.info, context)), "-c", code], capture_output=True, text=True, timeout=60, check=False
        ).stdout
        found = [language.DependencyInfo(name=name, version=version) for name, version in json.loads(told or "[]")]
        return language.GetProgramDependenciesResponse(dependencies=found)

    def RuntimeOptionsPrompts(self, request: Any, context: grpc.ServicerContext) -> Any:
        return language.RuntimeOptionsResponse()

    def Template(self, request: Any, context: grpc.ServicerContext) -> Any:
        return language.TemplateResponse()

    def InstallDependencies(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Make the virtual environment that Pulumi.yaml names, and install requirements.txt, where there is one."""
        root = Path(request.info.root_directory or request.directory)
        folder = Path(request.info.program_directory or request.directory)
        if (wanted := _virtualenv(request.info)) and not wanted.exists():
            yield from self._stream(
                [sys.executable, "-m", "venv", str(wanted)], root, context, language.InstallDependenciesResponse
            )
        for place in dict.fromkeys((folder, root)):
            if (place / "requirements.txt").is_file():
                command = [str(_python(request.info, context)), "-m", "pip", "install", "-r", "requirements.txt"]
                yield from self._stream(command, place, context, language.InstallDependenciesResponse)
                return

    def Run(self, request: Any, context: grpc.ServicerContext) -> Any:
        info = request.info
        python = _python(info, context)
        command = [str(python), "-u", str(self.executor), "--project", request.project, "--stack", request.stack,
                   "--root_directory", info.root_directory, "--pwd", request.pwd, "--parallel", str(request.parallel),
                   "--monitor", request.monitor_address, "--engine", self.engine,
                   "--organization", request.organization]  # fmt: skip
        if request.dryRun:
            command += ["--dry_run", "true"]
        environ = {
            **_activated(python, info),
            "PULUMI_CONFIG": json.dumps(dict(request.config)),
            "PULUMI_CONFIG_SECRET_KEYS": json.dumps(list(request.configSecretKeys)),
        }
        # The executor's output is this process's own, which the engine shows to the user.
        program = leashed([*command, _program(info), *request.args])
        with self._started(program, cwd=request.pwd, env=environ) as process:
            code = process.wait()
        if code == SHOWN:
            return language.RunResponse(bail=True)
        if code < 0:
            return language.RunResponse(error=f"the program was ended by {signal.Signals(-code).name}", bail=True)
        return language.RunResponse(error=f"the program exited with status {code}" if code else "")

    def RunPlugin(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        info = request.info
        python = _python(info, context)
        environ = {**_activated(python, info), **dict(entry.split("=", 1) for entry in request.env)}
        program = _program(info) if info.program_directory else request.program
        command = [str(python), "-u", program, *request.args]
        yield from self._stream(
            command, Path(request.pwd or "."), context, language.RunPluginResponse, environ, code=True
        )

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.stop()
        return empty_pb2.Empty()

    def stop(self) -> None:
        """End the programs that run: politely, then not."""
        with self._lock:
            children = list(self._children)
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()

    def _started(self, command: list[str], **options: Any) -> _Started:
        return _Started(self, subprocess.Popen(command, stdin=subprocess.DEVNULL, **options))

    def _stream(
        self,
        command: list[str],
        folder: Path,
        context: grpc.ServicerContext,
        message: Any,
        environ: Mapping[str, str] | None = None,
        *,
        code: bool = False,
    ) -> Iterator[Any]:
        """Run a command; each line that it writes is a message. Without `code`, a failure aborts the call."""
        lines: queue.Queue[tuple[str, bytes]] = queue.Queue()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self._started(command, cwd=folder, env=environ, **pipes) as process:
            context.add_callback(process.terminate)
            readers = [
                threading.Thread(target=_read, args=(getattr(process, name), name, lines), daemon=True)
                for name in pipes
            ]
            for reader in readers:
                reader.start()
            open_pipes = len(readers)
            while open_pipes:
                name, line = lines.get()
                if line:
                    yield message(**{name: line})
                else:
                    open_pipes -= 1
            status = process.wait()
        if code:
            yield message(exitcode=status)
        elif status:
            context.abort(grpc.StatusCode.UNKNOWN, f"`{' '.join(command)}` exited with status {status}")


class _Started:
    """A child of the host for as long as the `with` lasts: it never outlives the call that started it."""

    def __init__(self, host: Host, process: subprocess.Popen[Any]) -> None:
        self.host, self.process = host, process

    def __enter__(self) -> subprocess.Popen[Any]:
        with self.host._lock:
            self.host._children.add(self.process)
        return self.process

    def __exit__(self, *exc: object) -> None:
        with self.host._lock:
            self.host._children.discard(self.process)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _read(pipe: IO[bytes], name: str, lines: queue.Queue[tuple[str, bytes]]) -> None:
    for line in pipe:
        lines.put((name, line))
    lines.put((name, b""))


def _virtualenv(info: Any) -> Path | None:
    option = info.options.fields["virtualenv"].string_value if "virtualenv" in info.options.fields else ""
    return Path(info.root_directory or ".") / option if option else None


def _python(info: Any, context: grpc.ServicerContext) -> Path:
    """The interpreter of the virtual environment that Pulumi.yaml names, else the one that runs this."""
    folder = _virtualenv(info)
    if folder is None:
        return Path(sys.executable)
    python = folder / "bin" / "python"
    if not python.exists():
        context.abort(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"The virtual environment {folder}, which Pulumi.yaml names, is not there. Make it with `make setup`, "
            "or with `pulumi install`.",
        )
    return python


def _activated(python: Path, info: Any) -> dict[str, str]:
    """The environment with the interpreter's virtual environment active, as Pulumi's own host does it."""
    environ = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "EKIBEN_LANGUAGE_EXEC")}
    if folder := _virtualenv(info):
        environ["VIRTUAL_ENV"] = str(folder)
        environ["PATH"] = os.pathsep.join((str(python.parent), environ.get("PATH", os.defpath)))
    return environ


def _program(info: Any) -> str:
    entry = info.entry_point
    folder = str(info.program_directory)
    return folder if entry in ("", ".") else os.path.join(folder, entry)


def main(arguments: Iterable[str]) -> None:
    """Serve until the engine ends this process. Raises SpecError without an executor."""
    executor = os.environ.get("EKIBEN_LANGUAGE_EXEC", "")
    if not executor or not Path(executor).is_file():
        raise SpecError(
            "EKIBEN_LANGUAGE_EXEC must name pulumi-language-python-exec: run `pulumi-language-python` instead."
        )
    host = Host(Path(executor), next((a for a in arguments if not a.startswith("-")), ""))
    limits = [("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES)]
    server = grpc.server(futures.ThreadPoolExecutor(8), options=limits)
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server)
    stopped = threading.Event()
    when_orphaned(stopped.set)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopped.set())
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    # A signal that comes just before a wait is seen after it.
    while not stopped.wait(LOOK_S):
        pass
    host.stop()
    server.stop(0.5).wait()


if __name__ == "__main__":
    main(sys.argv[1:])
