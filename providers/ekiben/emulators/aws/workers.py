"""Lambda's execution environments: processes that run a function's own code under AWS's own runtime client.

A process serves one invocation at a time and is kept for the next. Of a zip it sees the function's files, the standard library, and
what Lambda has beside it (boto3, the runtime client), and nothing else of the interpreter that runs the emulator; of an image what
the image has. An image with Lambda's web adapter is asked by HTTP, another one asks the Runtime API itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import logging
import os
import queue
import re
import secrets
import shutil
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ekiben.emulators.aws.call import Refused
from ekiben.emulators.aws.containers import Container
from ekiben.emulators.aws.images import Image, NoImage
from ekiben.emulators.aws.runtime_api import RuntimeApi
from ekiben.emulators.aws.web_adapter import WebAdapter
from ekiben.emulators.warden import Ward
from ekiben.errors import EkibenError

__all__ = ["Code", "Outcome", "Workers"]

# What the Python runtimes have in /var/runtime: boto3 with what it needs, and the runtime client with what that needs.
RUNTIME = (
    "awslambdaric", "runtime_client", "simplejson", "snapshot_restore_py", "boto3", "botocore", "s3transfer", "jmespath",
    "dateutil", "six", "urllib3",
)  # fmt: skip
CONCURRENCY = 10  # of a new account (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html)
INIT_S = 60.0  # AWS gives 10; a busy laptop is slower
IDLE_S = 300.0
LOOK_S = 5.0
MEMORY_S = 0.2  # how often it is looked how much of it a process holds
TASK_ROOT = re.compile(r"(?<![^:])/var/task(?=[/:]|\Z)")

logger = logging.getLogger("ekiben.emulators.aws")


@dataclass(frozen=True, kw_only=True)
class Code:
    """A version of a function, as its processes need it. `key`: another one for another code or configuration.

    Of a zip `handler` is the one that is called; of an image `entrypoint` and `words` take the place of its own. `most`: how many
    of the function may run at once, 0 for as many as there may be.
    """

    key: str
    arn: str
    version: str
    timeout_s: float
    memory_mib: int
    env: Mapping[str, str]
    zip: bytes = b""
    handler: str = ""
    image: Image | None = None
    entrypoint: Sequence[str] = ()
    words: Sequence[str] = ()
    most: int = 0

    @property
    def function(self) -> str:
        """Its ARN, without the version."""
        return ":".join(self.arn.split(":")[:7])


@dataclass(kw_only=True)
class Outcome:
    """How an invocation ended. error: "" or what X-Amz-Function-Error says; log: what was printed, for the log stream `stream`."""

    payload: bytes = b""
    error: str = ""
    log: str = ""
    stream: str = ""
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    init_ms: float = 0.0
    ms: float = 0.0


class _Gone(Exception):
    """A process had ended before it took the event."""


class Worker:
    """One process."""

    def __init__(self, code: Code, folder: Path) -> None:
        self.code, self.folder, self.used_at = code, folder / secrets.token_hex(4), 0.0
        self.stream = f"{time.strftime('%Y/%m/%d', time.gmtime())}/[{code.version}]{secrets.token_hex(16)}"
        (self.folder / "tmp").mkdir(parents=True)
        self._log = self.folder / "log"
        self.api: RuntimeApi | WebAdapter
        env = {**code.env, "AWS_LAMBDA_LOG_STREAM_NAME": self.stream}
        try:
            if code.image is None:
                self._start_zip(folder, env)
            else:
                self._start_image(code.image, env)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _start_zip(self, folder: Path, env: Mapping[str, str]) -> None:
        runtime, task = _runtime(folder), _unpacked(folder, self.code.zip)
        self.api = RuntimeApi(self.code.arn, self.code.timeout_s)
        # Where Lambda has the zip, a folder of its own stands for it here.
        env = {name: TASK_ROOT.sub(str(task), value) for name, value in env.items()}
        env = {
            **{name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
            "LANG": "en_US.UTF-8", "TZ": ":UTC", "TMPDIR": str(self.folder / "tmp"), "HOME": str(self.folder / "tmp"),
            "LAMBDA_TASK_ROOT": str(task), "LAMBDA_RUNTIME_DIR": str(runtime), "_HANDLER": self.code.handler,
            "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **env,
            "PYTHONPATH": os.pathsep.join((*([env["PYTHONPATH"]] if "PYTHONPATH" in env else []), str(runtime))),
            "AWS_LAMBDA_RUNTIME_API": self.api.address,
        }  # fmt: skip
        with self._log.open("ab") as output:
            command = [sys.executable, "-S", "-m", "awslambdaric", self.code.handler]
            self.ward = Ward(command, env=env, cwd=task, output=output)

    def _start_image(self, image: Image, env: Mapping[str, str]) -> None:
        """Raises Refused where it cannot be started."""
        api = None if image.adapted else RuntimeApi(self.code.arn, self.code.timeout_s)
        told = {"AWS_LAMBDA_RUNTIME_API": api.address} if api else {}
        try:
            container = Container(
                image, self.folder, self._log, {**env, **told}, entrypoint=self.code.entrypoint, words=self.code.words
            )
        except (NoImage, EkibenError) as error:
            if api:
                api.close()
            raise Refused("InvalidRuntimeException", f"the image does not start: {error}", 502) from error
        variables = {**image.variables(self.folder), **env}
        self.ward, self.api = container.ward, api or WebAdapter(container, variables, self.code.timeout_s)

    def run(self, payload: bytes, outcome: Outcome) -> bool:
        """Give it an event and wait for what it says. False when the process is of no more use; raises _Gone when it took none."""
        begun = time.monotonic()
        self.api.offer(outcome.request_id, payload)
        deadline = begun + self.code.timeout_s + (INIT_S if not self.used_at else 0.0)
        alive, looked = True, begun
        while True:
            try:
                kind, body = self.api.told.get(timeout=0.05)
            except queue.Empty:
                code = self.ward.wait(0)
                if code is not None and self.api.told.empty():
                    outcome.error, alive = "Unhandled", False
                    outcome.payload = _failure(
                        "Runtime.ExitError",
                        f"RequestId: {outcome.request_id} Error: Runtime exited with error: exit status {code}",
                    )
                    break
                if time.monotonic() > deadline:
                    outcome.error, alive = "Unhandled", False
                    said = f"{outcome.request_id} Task timed out after {self.code.timeout_s:.2f} seconds"
                    outcome.payload = _failure("Sandbox.Timedout", f"RequestId: {outcome.request_id} Error: {said}")
                    self.ward.kill()
                    break
                if time.monotonic() > looked + MEMORY_S:
                    looked = time.monotonic()
                    if self.ward.held_mib(self.code.memory_mib) > self.code.memory_mib:
                        outcome.error, alive = "Unhandled", False
                        said = f"RequestId: {outcome.request_id} Error: Runtime exited with error: signal: killed"
                        outcome.payload = _failure("Runtime.ExitError", said)
                        self.ward.kill()
                        break
                continue
            if kind == "gone":
                raise _Gone
            if kind == "started":  # the clock of an invocation starts when the code has been loaded
                outcome.init_ms = 0.0 if self.used_at else (time.monotonic() - begun) * 1000
                begun = time.monotonic()
                deadline = begun + self.code.timeout_s
                continue
            outcome.payload, outcome.error = body, "" if kind == "response" else "Unhandled"
            alive = kind != "init"
            break
        outcome.ms = (time.monotonic() - begun) * 1000
        outcome.log, outcome.stream = self._printed(), self.stream
        self.used_at = time.monotonic()
        return alive

    def end(self) -> None:
        self.ward.kill()
        self.api.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _printed(self) -> str:
        """What it has printed since it was asked last. It appends, so the file can be emptied under it."""
        text = self._log.read_text("utf-8", "replace")
        os.truncate(self._log, 0)
        return text


class Workers:
    """All of them. `folder` is emptied first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
        folder.mkdir(parents=True)
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        threading.Thread(target=self._end_idle, daemon=True, name="idle").start()

    def invoke(self, code: Code, payload: bytes, request_id: str = "") -> Outcome:
        """Run the function once. Raises Refused when as many run as may."""
        outcome = Outcome(request_id=request_id or str(uuid.uuid4()))
        while True:
            with suppress(_Gone):
                self._run(self._take(code), payload, outcome)
                return outcome

    def _run(self, worker: Worker, payload: bytes, outcome: Outcome) -> None:
        alive = False
        try:
            alive = worker.run(payload, outcome)
        finally:
            with self._lock:
                keep = alive and not self._closing.is_set()
                if keep:
                    self._idle.append(worker)
                else:
                    self._all.discard(worker)
            if not keep:
                worker.end()

    def reset(self) -> None:
        """End them all; those that are wanted afterwards are started anew."""
        with self._lock:
            idle, busy = self._idle, self._all.difference(self._idle)
            self._idle, self._all = [], busy
        for worker in idle:
            worker.end()
        for worker in busy:  # who waits for it takes it away
            worker.ward.kill()

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            workers = list(self._all)
        for worker in workers:
            worker.end()

    def _take(self, code: Code) -> Worker:
        with self._lock:
            for worker in self._idle[::-1]:
                if worker.code.key == code.key:
                    self._idle.remove(worker)
                    if worker.ward.wait(0) is None:
                        return worker
                    self._all.discard(worker)  # it has ended by itself meanwhile
                    worker.end()
            busy = self._all.difference(self._idle)
            mine = sum(worker.code.function == code.function for worker in busy)
            if len(busy) >= CONCURRENCY or mine >= (code.most or CONCURRENCY) or self._closing.is_set():
                raise Refused("TooManyRequestsException", "Rate Exceeded.", 429)
            worker = Worker(code, self._folder)
            self._all.add(worker)
            return worker

    def _end_idle(self) -> None:
        while not self._closing.wait(LOOK_S):
            with self._lock:
                old = [worker for worker in self._idle if time.monotonic() - worker.used_at > IDLE_S]
                for worker in old:
                    self._idle.remove(worker)
                    self._all.discard(worker)
            for worker in old:
                worker.end()


def _runtime(folder: Path) -> Path:
    """A folder with what Lambda has beside a function, and nothing else."""
    made = folder / "runtime"
    if not made.exists():
        fresh = folder / ".runtime"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        for name in RUNTIME:
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None:
                raise Refused("ServiceException", f"the emulator cannot run functions: {name} is not installed", 500)
            source = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
            (fresh / source.name).symlink_to(source)
        fresh.replace(made)
    return made


def _unpacked(folder: Path, data: bytes) -> Path:
    """The function's files, once for all processes of the same code."""
    made = folder / "code" / hashlib.sha256(data).hexdigest()
    if not made.exists():
        fresh = made.with_name("." + made.name)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                archive.extractall(fresh)  # noqa: S202 - zipfile keeps names inside
        except zipfile.BadZipFile as error:
            raise Refused("InvalidZipFileException", f"the function's code is no zip file: {error}", 502) from error
        with suppress(FileExistsError):
            fresh.replace(made)
    return made


def _failure(type_: str, message: str) -> bytes:
    return json.dumps({"errorType": type_, "errorMessage": message}).encode()
