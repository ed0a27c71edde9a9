"""Dockerfiles of Python images, built without Docker: the files that they copy, the packages that they pin, what they start.

FROM a Python image; COPY from the context, and of Lambda's web adapter; RUN of `pip install -r FILE` and `python -m compileall`;
ENV, WORKDIR, USER, EXPOSE, LABEL; ENTRYPOINT and CMD as JSON. Anything else fails the build. The interpreter that runs the
emulator stands for the image's Python.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ekiben.errors import EkibenError, WorkloadError

__all__ = ["ADAPTER", "CONFIG", "LOCK", "ROOT", "BuildFailed", "build"]

# What is in the folder of an image, and where Lambda looks for its web adapter in the image.
CONFIG, LOCK, ROOT = "config.json", "requirements.lock", "root"
ADAPTER = "opt/extensions/lambda-adapter"
WEB_ADAPTER = re.compile(r"(?:.*/)?aws-lambda-adapter(?:[:@].*)?")
PYTHON = re.compile(r"(?:.*/)?python(?:[:@].*)?")
# Options of pip that say how it installs, not what.
PIP_OPTIONS = re.compile(
    r"--(?:no-cache-dir|no-deps|require-hashes|disable-pip-version-check|no-compile|only-binary=:all:|quiet)|-q"
)


class BuildFailed(Exception):
    """Why, with the line of the Dockerfile."""


def build(context: Path, dockerfile: Path, into: Path, install: Callable[[Path], object]) -> str:
    """Build what `dockerfile` says of the files in `context`; the folder `into` is then the image. Returns its id, sha256:...

    install: makes the environment of a lock. Raises BuildFailed.
    """
    made = _Build(context, into)
    try:
        text = dockerfile.read_text(encoding="utf-8")
    except OSError as error:
        raise BuildFailed(f"there is no Dockerfile: {error}") from error
    for number, instruction in _instructions(text):
        word, _, rest = instruction.partition(" ")
        try:
            made.step(number, word.upper(), rest.strip())
        except (ValueError, OSError) as error:
            raise BuildFailed(f"{dockerfile.name} line {number}: {instruction}: {error}") from error
        print(f"Step {number}: {instruction}", flush=True)
    if not made.started:
        raise BuildFailed(f"{dockerfile.name}: it has no FROM")
    id = made.finish()
    try:
        install(into / LOCK)
    except EkibenError as error:
        said = f"{error}\n{error.tail}" if isinstance(error, WorkloadError) else str(error)
        raise BuildFailed(f"{dockerfile.name} line {made.installs}: RUN pip install: {said}") from error
    return id


def _instructions(text: str) -> list[tuple[int, str]]:
    """(number of the first line, instruction), continuations joined, comments left out."""
    found: list[tuple[int, str]] = []
    start, whole = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not (line.strip() or whole):
            continue
        start = start or number
        whole += line.strip().removesuffix("\\")
        if not line.rstrip().endswith("\\"):
            found.append((start, whole.strip()))
            start, whole = 0, ""
    return [*found, (start, whole.strip())] if whole.strip() else found


class _Build:
    """The image so far."""

    def __init__(self, context: Path, into: Path) -> None:
        self._context, self._into, self._root = context.resolve(), into, into / ROOT
        self._root.mkdir(parents=True)
        self.started, self.installs = False, 0
        self._lock: list[str] = []
        self._config: dict[str, Any] = {
            "Env": {},
            "Entrypoint": [],
            "Cmd": [],
            "WorkingDir": "/",
            "User": "",
            "Labels": {},
        }

    def step(self, number: int, word: str, rest: str) -> None:
        """Do the instruction on this line. Raises ValueError, OSError."""
        if word == "FROM":
            if self.started:
                raise ValueError("the emulator builds images of one stage")
            name = shlex.split(rest)[-1]
            if not PYTHON.fullmatch(name):
                raise ValueError("the emulator builds on Python's own images only")
            self.started = True
            return
        if not self.started:
            raise ValueError("FROM comes first")
        done = getattr(self, f"_{word.lower()}", None)
        if done is None:
            raise ValueError("the emulator does not know this instruction")
        done(rest)
        if word == "RUN" and self._lock:
            self.installs = number

    def finish(self) -> str:
        files = hashlib.sha256()
        for path in sorted(self._root.rglob("*")):
            if path.is_file():
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                files.update(f"{path.relative_to(self._root).as_posix()}\0{content}\n".encode())
        lock = "\n".join(self._lock)
        files.update(lock.encode())
        (self._into / LOCK).write_text(lock, encoding="utf-8")
        environment = [f"{name}={value}" for name, value in self._config.pop("Env").items()]
        told = {
            "architecture": "amd64", "os": "linux", "config": {**self._config, "Env": environment},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{files.hexdigest()}"]},
        }  # fmt: skip
        text = json.dumps(told, sort_keys=True)
        (self._into / CONFIG).write_text(text, encoding="utf-8")
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def _copy(self, rest: str) -> None:
        words = json.loads(rest) if rest.startswith("[") else shlex.split(rest)
        options = [word for word in words if word.startswith("--")]
        *sources, target = (word for word in words if not word.startswith("--"))
        if not sources:
            raise ValueError("it takes what to copy and where to")
        if [option for option in options if not option.startswith(("--chown=", "--chmod="))]:
            image = options[0].removeprefix("--from=")
            if not options[0].startswith("--from=") or not WEB_ADAPTER.fullmatch(image):
                raise ValueError("the emulator copies from the context, and Lambda's web adapter from its image")
            if self._inside(target) != self._root / ADAPTER:
                raise ValueError(f"Lambda looks for the web adapter in /{ADAPTER} only")
            self._inside(target).parent.mkdir(parents=True, exist_ok=True)
            self._inside(target).write_text("Here the emulator itself is the adapter.\n", encoding="utf-8")
            return
        place = self._inside(target)
        several = len(sources) > 1 or target.endswith("/")
        for source in sources:
            found = (self._context / source.lstrip("/")).resolve()
            if not found.is_relative_to(self._context) or not found.exists():
                raise ValueError(f"there is no {source} in the context")
            if found.is_dir():
                shutil.copytree(found, place, dirs_exist_ok=True)
                continue
            to = place / found.name if several or place.is_dir() else place
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, to)

    def _run(self, rest: str) -> None:
        words = shlex.split(rest)
        if words[:2] in (["python", "-m"], ["python3", "-m"]):
            words = words[2:]
        if words[:1] == ["compileall"]:
            return  # only to start sooner
        if words[:2] != ["pip", "install"]:
            raise ValueError("the emulator runs `pip install -r FILE` only")
        rest_of = iter(words[2:])
        for word in rest_of:
            if word in ("-r", "--requirement"):
                self._lock.append(self._inside(next(rest_of, "")).read_text(encoding="utf-8"))
            elif not PIP_OPTIONS.fullmatch(word):
                raise ValueError(f"the emulator installs what is locked in a file, and does nothing with {word!r}")

    def _env(self, rest: str) -> None:
        words = shlex.split(rest)
        if not words or "=" not in words[0]:
            name, _, value = rest.partition(" ")
            words = [f"{name}={value.strip()}"]
        for word in words:
            name, mark, value = word.partition("=")
            if not mark or not name or "$" in value:
                raise ValueError("the emulator takes NAME=VALUE, without variables in it")
            self._config["Env"][name] = value

    def _workdir(self, rest: str) -> None:
        self._config["WorkingDir"] = rest
        self._inside(rest).mkdir(parents=True, exist_ok=True)

    def _user(self, rest: str) -> None:
        self._config["User"] = rest

    def _expose(self, rest: str) -> None:
        """A word to who reads it."""

    def _label(self, rest: str) -> None:
        self._config["Labels"] |= dict(word.partition("=")[::2] for word in shlex.split(rest))

    def _entrypoint(self, rest: str) -> None:
        self._config["Entrypoint"] = _words(rest)

    def _cmd(self, rest: str) -> None:
        self._config["Cmd"] = _words(rest)

    def _inside(self, path: str) -> Path:
        """Where a path of the image is. Raises ValueError for one that leads out of it."""
        found = (
            self._root / self._config["WorkingDir"].lstrip("/") / path
            if not path.startswith("/")
            else self._root / path[1:]
        )
        if ".." in found.parts:
            raise ValueError(f"{path} climbs")
        return found


def _words(rest: str) -> list[str]:
    try:
        words = json.loads(rest)
    except ValueError as error:
        raise ValueError('the emulator takes the JSON form only: ["command", "word"]') from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError("it takes a list of words")
    return words
