"""Instances of one kind, of a variant of SageMaker or a service of ECS: processes of an image, as many as there are to be."""

from __future__ import annotations

import sys
import tarfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import boto3

from ekiben.emulators.aws import cell
from ekiben.emulators.aws.containers import Container, Reply
from ekiben.emulators.aws.images import Image, NoImage
from ekiben.emulators.aws.log_streams import Log
from ekiben.emulators.aws.objects import split
from ekiben.errors import EkibenError

__all__ = ["Busy", "Fleet", "Gone", "Start", "StartFailed"]

# https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html: 8 minutes to answer /ping; nobody waits here.
START_S = 120.0
MODEL_S = 60.0
STOP_S = 30.0
IDLE_S = 300.0
POLL_S = 0.02


class StartFailed(Exception):
    """Why, in SageMaker's words."""


class Gone(Exception):
    """Another fleet has taken its place."""


class Busy(Exception):
    """As many requests as may be are at work."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What it takes to start an instance, which is ready when it answers `ready`.

    environment: of the platform and the model; keys: of the role that it runs as; role: that its log is written with; words:
    the arguments of its command; timeout_s: of a request; most: requests at once.
    """

    name: str
    image: Image
    environment: Mapping[str, str]
    keys: Mapping[str, str]
    url: str
    region: str
    account: str
    folder: Path
    log_group: str
    role: str
    ready: str = "/ping"
    entrypoint: Sequence[str] = ()
    words: Sequence[str] = ("serve",)
    timeout_s: float = MODEL_S
    model_data: str = ""
    serverless: bool = False
    most: int = 0


@dataclass
class _Instance:
    id: str
    container: Container
    log: Log
    busy: int = 0
    used_at: float = field(default_factory=time.monotonic)


class Fleet:
    """`count` instances: those that have ended are replaced when one is next needed. A serverless fleet has them while used."""

    def __init__(self, start: Start, count: int) -> None:
        self.start, self.count = start, count
        self._lock, self._filling = threading.Condition(), threading.Lock()
        self._instances: list[_Instance] = []
        self._ended = False

    def fill(self, closing: threading.Event) -> None:
        """Start what is missing, and wait until all of it is ready. Raises StartFailed, and what was started is gone."""
        with self._filling:
            self._fill(closing)

    def _fill(self, closing: threading.Event) -> None:
        with self._lock:
            self._drop_dead()
            fresh: list[_Instance] = []
            missing = self.count - len(self._instances)
        deadline = time.monotonic() + START_S
        try:
            for _ in range(missing):
                fresh.append(self._started())
            for instance in fresh:
                while not instance.container.answers(self.start.ready):
                    instance.log.send()
                    ended = instance.container.exit_status is not None
                    if ended or closing.wait(POLL_S) or time.monotonic() > deadline:
                        raise StartFailed(
                            f"The primary container for production variant {self.start.name} did not pass the ping health "
                            "check. Please check CloudWatch logs for this endpoint."
                        )
        except BaseException:
            for instance in fresh:
                self._end(instance)
            raise
        with self._lock:
            if not self._ended:
                self._instances += fresh
                self._lock.notify_all()
                return
        for instance in fresh:
            self._end(instance)

    def resize(self, count: int, closing: threading.Event) -> None:
        """Have so many. Raises StartFailed."""
        self.count = count
        with self._lock:
            extra, self._instances = self._instances[count:], self._instances[:count]
        for instance in extra:
            self._drain(instance)
        self.fill(closing)

    def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes, closing: threading.Event) -> Reply:
        """Send a request to one of them. Raises Gone, Busy, StartFailed, and what `Container.ask` raises."""
        while True:
            instance = self._taken(closing)
            try:
                return instance.container.ask(method, target, headers, body, self.start.timeout_s)
            except ConnectionRefusedError:  # it has just ended, and nothing was sent
                instance.container.ward.kill()
            finally:
                with self._lock:
                    instance.busy -= 1
                    instance.used_at = time.monotonic()
                    self._lock.notify_all()
                instance.log.send()

    @property
    def ids(self) -> list[str]:
        """Of those that run."""
        with self._lock:
            return [one.id for one in self._instances if one.container.exit_status is None]

    def sweep(self) -> None:
        """End what nobody has used for long, of a serverless one."""
        now = time.monotonic()
        with self._lock:
            old = [
                one for one in self._instances if self.start.serverless and not one.busy and now - one.used_at > IDLE_S
            ]
            self._instances = [one for one in self._instances if one not in old]
        for instance in old:
            self._end(instance)

    def drain(self) -> None:
        """End all when their requests are answered."""
        with self._lock:
            self._ended = True
            instances, self._instances = self._instances, []
        for instance in instances:
            self._drain(instance)

    def kill(self) -> None:
        with self._lock:
            self._ended = True
            instances, self._instances = self._instances, []
        for instance in instances:
            self._end(instance)

    def _taken(self, closing: threading.Event) -> _Instance:
        with self._lock:
            if self._ended:
                raise Gone
            if self.start.most and sum(one.busy for one in self._instances) >= self.start.most:
                raise Busy
            self._drop_dead()
            missing = not self._instances
        if missing:
            self.fill(closing)
        with self._lock:
            if not self._instances:
                raise Gone
            instance = min(self._instances, key=lambda one: one.busy)
            instance.busy += 1
            return instance

    def _drop_dead(self) -> None:
        for instance in [one for one in self._instances if one.container.exit_status is not None]:
            self._instances.remove(instance)
            self._end(instance)

    def _started(self) -> _Instance:
        """Raises StartFailed."""
        start = self.start
        id = f"i-{time.monotonic_ns():017x}"
        base = start.folder / id
        stream = f"{start.name}/{id}"
        log = Log(base / "log", start.log_group, stream, start.account, start.region, start.role)
        try:
            (base / "model").mkdir(parents=True)
            before = self._model(base)
            variables = {
                **start.keys, "AWS_ENDPOINT_URL": start.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": start.region,
                "AWS_DEFAULT_REGION": start.region, "AWS_EC2_METADATA_DISABLED": "true", **start.environment,
            }  # fmt: skip
            container = Container(
                start.image, base, log.path, variables, entrypoint=start.entrypoint, words=start.words, before=before
            )
        except (NoImage, EkibenError, OSError, ValueError, tarfile.TarError) as error:
            raise StartFailed(f"Unable to start the container of production variant {start.name}: {error}") from error
        return _Instance(id, container, log)

    def _model(self, base: Path) -> list[str]:
        """Put the model's files where it looks for them; what goes before its command then. Raises ValueError and TarError."""
        if not self.start.model_data:
            return []
        bucket, key = split(self.start.model_data)
        keys = {name.lower(): value for name, value in self.start.keys.items()}
        s3 = boto3.client("s3", endpoint_url=self.start.url, region_name=self.start.region, **keys)
        archive = base / "model.tar.gz"
        try:
            s3.download_file(bucket, key, str(archive))
        except Exception as error:
            raise ValueError(f"failed to download model data from {self.start.model_data}: {error}") from error
        with tarfile.open(archive) as tar:
            tar.extractall(base / "model", filter="data")
        archive.unlink()
        return [sys.executable, "-I", str(cell.__file__), str(base), "/etc/hosts"]

    def _drain(self, instance: _Instance) -> None:
        with self._lock:
            self._lock.wait_for(lambda: not instance.busy, MODEL_S)
        self._end(instance, STOP_S)

    def _end(self, instance: _Instance, grace_s: float = 0.0) -> None:
        instance.container.end(grace_s)
        instance.log.send(last=True)
