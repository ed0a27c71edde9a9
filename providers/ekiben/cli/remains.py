"""What there is of a stack on this machine: resources in Pulumi's state, files, buckets, processes, sockets.

It reads, and trusts no list of ours: after a crash, or when a state folder was deleted by hand, it still finds what runs.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from ekiben.errors import SpecError
from ekiben.records import Platform

__all__ = ["Item", "Remains", "in_cloud", "remains", "sockets_dir", "stacks_known"]

State = Literal["up", "destroyed", "unknown"]
STATE_FILE = re.compile(r"(.+)\.json(?:\.gz)?")
RETAINED = ".ekiben/retained.json"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that exists. `retained`: the stack's program asked to leave it when it is destroyed."""

    kind: Literal["resource", "bucket", "file", "process", "sockets", "cloud"]
    name: str
    where: str
    tags: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    retained: bool = False


@dataclass(frozen=True, kw_only=True)
class Remains:
    """A stack and what there is of it. `state` is what Pulumi's state says."""

    stack: str
    state: State
    items: list[Item]

    @property
    def left(self) -> list[Item]:
        """What should not be there: all but what is retained, of a stack that is destroyed."""
        return [] if self.state == "up" else [item for item in self.items if not item.retained]


def remains(root: Path, stack: str) -> Remains:
    """Look for everything of `stack` of the project in `root`. Raises SpecError where the state cannot be read."""
    folder = root / ".ekiben" / stack
    state, resources = _resources(root, stack)
    items = [*resources, *_files(folder, destroyed=state != "up"), *_processes(folder)]
    if state != "up":  # else the state tells it
        items += in_cloud(root, stack)
    sockets = sockets_dir(folder)
    if sockets.exists():
        items.append(Item(kind="sockets", name=sockets.name, where=str(sockets)))
    return Remains(stack=stack, state=state, items=items)


def in_cloud(root: Path, stack: str) -> list[Item]:
    """What its providers say is there, of those that can be asked; nothing of an emulated one that does not run.

    Raises what the cloud says: who cannot ask cannot tell that nothing is left.
    """
    from ekiben import providers
    from ekiben.emulators import stacks as emulators

    config, emulated = emulators.config(root, stack), emulators.emulated(root, stack)
    kept = root / ".ekiben" / stack / "platform.json"
    platform = Platform.from_json(kept.read_text(encoding="utf-8")) if kept.exists() else None
    used = {part.provider for part in platform.parts.values()} if platform else set()
    named = {str(config.get("ekiben:provider")), *emulated, *used}
    gone = {provider for provider in emulated if not emulators.alive(root, provider)}
    emulators.meet(root, [provider for provider in emulated if provider not in gone])
    items = []
    for provider in sorted(named - gone):
        package = providers().get(provider, "")
        if package and importlib.util.find_spec(f"{package}.inventory"):
            found = importlib.import_module(f"{package}.inventory").found(_project(root), stack, config, platform)
            items += [
                Item(kind="cloud", name=name, where=where, tags=tags, retained="ekiben:retained" in tags)
                for name, where, tags in found
            ]
    return items


def stacks_known(root: Path) -> list[str]:
    """The stacks that have a state folder, or that Pulumi's local state names."""
    folder = root / ".ekiben"
    found = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    backend = _backend(root)
    if backend is not None:
        # Beside each state lie its backup and its attributes, which stay when the stack is removed.
        states = (STATE_FILE.fullmatch(path.name) for path in (backend / ".pulumi" / "stacks").glob("*/*.json*"))
        found |= {state[1] for state in states if state}
    return sorted(name for name in found if not name.startswith("."))


def sockets_dir(state_dir: Path) -> Path:
    """Where the station of `state_dir` keeps its sockets: a short path, which Unix demands."""
    digest = hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"ekiben-{os.getuid()}-{digest}"


def _backend(root: Path) -> Path | None:
    """The folder of Pulumi's state; None when it is kept elsewhere."""
    url = os.environ.get("PULUMI_BACKEND_URL") or f"file://{root / '.ekiben'}"
    if not url.startswith("file://"):
        return None
    return Path(unquote(urlsplit(url).path or "/")).expanduser() if url != "file://~" else Path.home()


def _resources(root: Path, stack: str) -> tuple[State, list[Item]]:
    """What Pulumi's state holds of the stack, its own root and providers left out."""
    backend = _backend(root)
    if backend is None:
        return _exported(root, stack)
    project = _project(root)
    for path in sorted((backend / ".pulumi" / "stacks" / project).glob(f"{stack}.json*")):
        if path.name in (f"{stack}.json", f"{stack}.json.gz"):
            try:
                data = path.read_bytes()
                checkpoint = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)["checkpoint"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise SpecError(f"Pulumi's state {path} cannot be read: {error}. Repair it, or remove it.") from error
            return _of((checkpoint.get("latest") or {}).get("resources") or [])
    return "destroyed", []


def _exported(root: Path, stack: str) -> tuple[State, list[Item]]:
    """The same from a shared backend, by the CLI. Unknown when it does not tell."""
    from ekiben.engine.pulumi_cli import find

    cli = find(root)
    if cli is None:
        return "unknown", []
    command = [str(cli.path), "stack", "export", "--stack", stack, "--cwd", str(root), "--non-interactive"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    if answer.returncode:
        return ("destroyed", []) if "no stack named" in answer.stderr else ("unknown", [])
    return _of(json.loads(answer.stdout)["deployment"].get("resources") or [])


def _of(resources: list[Mapping[str, Any]]) -> tuple[State, list[Item]]:
    real = [r for r in resources if not str(r["type"]).startswith("pulumi:")]
    items = [
        Item(
            kind="resource", name=str(r["urn"]).rpartition("::")[2], where=str(r["type"]),
            tags=dict((r.get("outputs") or {}).get("tags") or (r.get("inputs") or {}).get("tags") or {}),
        )
        for r in real
        if r.get("custom")
    ]  # fmt: skip
    return ("up" if real else "destroyed"), items


def _project(root: Path) -> str:
    try:
        text = (root / "Pulumi.yaml").read_text(encoding="utf-8")
    except OSError:
        return "*"
    match = re.search(r"^name:\s*['\"]?([\w.-]+)", text, re.MULTILINE)
    return match.group(1) if match else "*"


def _files(folder: Path, *, destroyed: bool) -> Iterator[Item]:
    """The buckets, and all else that is in the state folder."""
    if not folder.is_dir():
        return
    declared = _declared(folder / "station.db")
    buckets = sorted((folder / "buckets").iterdir()) if (folder / "buckets").is_dir() else []
    for bucket in buckets:
        spec, tags = declared.get(bucket.name, ({}, {}))
        kept = _kept(bucket)
        yield Item(
            kind="bucket", name=bucket.name, where=str(bucket), tags=tags or kept or {}, size_bytes=_size(bucket),
            retained=kept is not None if destroyed else bool(spec.get("retain")),
        )  # fmt: skip
    for path in sorted(folder.iterdir()):
        if path.name != "buckets":
            yield Item(kind="file", name=path.name, where=str(path), size_bytes=_size(path))


def _kept(bucket: Path) -> dict[str, str] | None:
    """The tags of a bucket that a destroy has left on purpose; None of any other."""
    try:
        return dict(json.loads((bucket / RETAINED).read_text(encoding="utf-8"))["tags"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _declared(database: Path) -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    """Spec and tags of the buckets that the station knows; read only, so that looking changes nothing."""
    if not database.exists():
        return {}
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            rows = connection.execute("select name, spec, tags from resources where kind = 'bucket'").fetchall()
    except sqlite3.Error:
        return {}
    return {name: (json.loads(spec), json.loads(tags)) for name, spec, tags in rows}


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    return sum((Path(at) / name).lstat().st_size for at, _, names in os.walk(path) for name in names)


def _processes(folder: Path) -> Iterator[Item]:
    """The processes of the stack's station, alive or orphaned: by what they were started with, and their environment."""
    places = (str(folder.resolve()), str(sockets_dir(folder)))
    spared = _ancestors()
    for pid, arguments, env in _all():
        if pid in spared:
            continue
        named = any(place in argument for argument in arguments for place in places)
        ours = any(argument.startswith("ekiben.") or "/ekiben/" in argument for argument in arguments)
        marked = any(_marks(key, value, *places) for key, value in env.items())
        if (named and ours) or marked:
            shown = " ".join(arguments)
            yield Item(kind="process", name=str(pid), where=shown if len(shown) <= 200 else shown[:197] + "...")


def _marks(key: str, value: str, folder: str, sockets: str) -> bool:
    """Does this variable say that the station gave the process its environment? EKIBEN_PLATFORM is the user's, too."""
    path = value.removeprefix("file://") + "/"
    ours = key.startswith("EKIBEN_") and key != "EKIBEN_PLATFORM"
    return (ours and path.startswith(folder + "/")) or (key != "PWD" and path.startswith(sockets + "/"))


def _all() -> Iterator[tuple[int, list[str], dict[str, str]]]:
    """pid, arguments and environment of every process that may be looked at."""
    if not sys.platform.startswith("linux"):
        text = subprocess.run(
            ["ps", "-Aww", "-o", "pid=,command="], capture_output=True, text=True, timeout=20, check=True
        ).stdout
        for row in text.splitlines():
            pid, _, command = row.strip().partition(" ")
            yield int(pid), command.split(), {}
        return
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            arguments = _split(Path(entry.path, "cmdline").read_bytes())
            env = dict(pair.partition("=")[::2] for pair in _split(Path(entry.path, "environ").read_bytes()))
        except OSError:
            continue
        if arguments:
            yield int(entry.name), arguments, env


def _split(data: bytes) -> list[str]:
    return [part.decode("utf-8", "surrogateescape") for part in data.split(b"\0") if part]


def _ancestors() -> set[int]:
    """This process and those that started it."""
    found = {os.getpid(), os.getppid()}
    pid = os.getppid()
    while pid > 1 and sys.platform.startswith("linux"):
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
        found.add(pid)
    return found
