"""Which cluster: the one that KUBECONFIG names; else one by kind, where Docker and its image are to be had; else our own."""

from __future__ import annotations

import fcntl
import http.client
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ekiben.emulators.kubernetes import gateway, launch
from ekiben.emulators.kubernetes.api import Api, Refused
from ekiben.emulators.kubernetes.layout import state_dir
from ekiben.errors import EkibenError, Unavailable

__all__ = [
    "Chosen",
    "borrowed",
    "choose",
    "found",
    "keep",
    "kind_may",
    "release",
    "stop",
    "with_gateway",
    "with_knative",
    "with_trainer",
]

NAME = "ekiben"
# On the namespaces of stacks: `ekiben.kubernetes.facts`.
STACK_LABEL = "ekiben.dev/stack"
KIND_START_S = 600.0
KIND_S = 60.0
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A cluster that answers. `environment`: the variables that lead there; `config`: the keys of a stack on it."""

    origin: Literal["yours", "kind", "own"]
    kubeconfig: str
    config: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {"KUBECONFIG": self.kubeconfig}


def found(environ: Mapping[str, str] = os.environ) -> Chosen | None:
    """The cluster that there is, without starting one."""
    if (given := environ.get("KUBECONFIG", "")) and not _ours(given):
        return Chosen(origin="yours", kubeconfig=given)
    if (own := launch.found()) is not None:
        return Chosen(origin="own", kubeconfig=str(own.kubeconfig), config=own.config)
    if NAME in _kind("get", "clusters").split():
        return Chosen(origin="kind", kubeconfig=str(_kind_file()))
    return None


def choose(say: Say = lambda line: None, *, fresh: bool = False, environ: Mapping[str, str] = os.environ) -> Chosen:
    """The cluster, started where none runs; `fresh`: without what was in it, unless it is the user's.

    Raises what `launch.ensure` does.
    """
    there = found(environ)
    if there is not None and there.origin != "yours" and fresh:
        stop(environ)
        there = None
    if there is not None:
        return there
    if kind_may():
        try:
            return _start_kind(say)
        except EkibenError as error:
            say(str(error))
    own = launch.ensure(say, fresh=fresh)
    return Chosen(origin="own", kubeconfig=str(own.kubeconfig), config=own.config)


def with_knative(there: Chosen, say: Say = lambda line: None) -> Chosen:
    """The cluster, and Knative Serving in it where it is our own, which is built and installed first; others have what they have.

    Raises what `launch.install_knative` does.
    """
    return replace(there, config=launch.install_knative(say).config) if there.origin == "own" else there


def with_gateway(there: Chosen, say: Say = lambda line: None) -> Chosen:
    """The cluster, and the Gateway API in it where it is our own; others have what they have. Raises what `gateway.ensure` does."""
    if there.origin != "own":
        return there
    gateway.ensure(Path(there.kubeconfig), say)
    return replace(there, config={**there.config, **gateway.CONFIG})


def with_trainer(there: Chosen, say: Say = lambda line: None) -> Chosen:
    """The cluster, and Kubeflow's Trainer in it where it is our own, which is built first; others have what they have.

    Raises what `launch.install_trainer` does.
    """
    if there.origin == "own":
        launch.install_trainer(say)
    return there


def stop(environ: Mapping[str, str] = os.environ) -> Chosen | None:
    """Stop the cluster that there is, and return what it was; the user's own is left alone."""
    there = found(environ)
    if there is None or there.origin == "own":
        launch.stop()
    elif there.origin == "kind":
        _kind("delete", "cluster", "--name", NAME)
        _kind_file().unlink(missing_ok=True)
    return there


@contextmanager
def borrowed(say: Say = lambda line: None) -> Iterator[Chosen]:
    """The cluster for as long as the block lasts. What a borrower started ends with the last one, whichever program that is,
    unless somebody has brought up a stack in it meanwhile.

    Raises what `choose` does.
    """
    users, lent = _beside("users"), _beside("lent")
    users.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with users.open("a", encoding="ascii") as lock:
        # Those that use it share the lock: who has it alone is the last.
        fcntl.flock(lock, fcntl.LOCK_SH)
        if found() is None:
            lent.touch()
        try:
            yield choose(say)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if lent.exists():
                    if not _stacks(found()):
                        stop()
                    lent.unlink(missing_ok=True)


def keep() -> None:
    """Have a cluster that was started for a while go on when the last borrower ends."""
    _beside("lent").unlink(missing_ok=True)


def release(environ: Mapping[str, str] = os.environ) -> str:
    """Stop Ekiben's own cluster unless somebody uses it; why it goes on, and nothing where none runs any more.

    Those use it who have borrowed it, and stacks that are in it.
    """
    users = _beside("users")
    users.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with users.open("a", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "other programs use it"
        there = found(environ)
        if there is not None and there.origin != "own":
            return "it is not Ekiben's own"
        if names := _stacks(there):
            return f"there are stacks in it: {', '.join(names)}"
        stop(environ)  # where none runs: what a killed one has left
        return ""


def _stacks(there: Chosen | None) -> list[str]:
    """The namespaces of the stacks that are in Ekiben's own cluster; none of one that does not answer, which serves nobody."""
    if there is None or there.origin != "own":
        return []
    try:
        listed = Api(Path(there.kubeconfig)).get(f"/api/v1/namespaces?labelSelector={STACK_LABEL}")["items"]
    except (OSError, http.client.HTTPException, ValueError, Refused):
        return []
    return sorted(one["metadata"]["name"] for one in listed)


def _start_kind(say: Say) -> Chosen:
    say("Starting a cluster by kind in Docker")
    file = _kind_file()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = ["kind", "create", "cluster", "--name", NAME, "--kubeconfig", str(file), "--wait", "180s"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=KIND_START_S, check=False
        )
        why = (done.stderr.strip().splitlines() or ["it says nothing"])[-1] if done.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        why = str(error)
    if why:
        _kind("delete", "cluster", "--name", NAME)
        raise Unavailable("kubernetes", "start a cluster by kind", why.rstrip("."), "Ekiben's own is tried instead")
    return Chosen(origin="kind", kubeconfig=str(file))


def kind_may() -> bool:
    """Are kind and a Docker that answers there?"""
    if not (shutil.which("kind") and shutil.which("docker")):
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=KIND_S, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _kind(*arguments: str) -> str:
    """What kind says; nothing where it is not there or fails."""
    if shutil.which("kind") is None:
        return ""
    try:
        return subprocess.run(
            ["kind", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=KIND_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _kind_file() -> Path:
    return state_dir().with_name("kind.kubeconfig")


def _beside(name: str) -> Path:
    """A file that outlives the cluster's state folder."""
    return state_dir().with_name(f"{state_dir().name}.{name}")


def _ours(kubeconfig: str) -> bool:
    return Path(kubeconfig).resolve() in (state_dir() / "kubeconfig", _kind_file().resolve())
