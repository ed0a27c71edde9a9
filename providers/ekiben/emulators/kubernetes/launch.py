"""Start, find and stop this user's cluster from another program."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ekiben import daemon
from ekiben.emulators.kubernetes import binaries, images, knative, machine, trainer
from ekiben.emulators.kubernetes.layout import ABOUT, LOCK, LOG, REGISTRY, Layout, state_dir
from ekiben.errors import SpecError, Unavailable, Unsupported
from ekiben.station.client import locked
from ekiben.station.launch import tail

__all__ = ["Cluster", "build", "ensure", "forget", "found", "install_knative", "install_trainer", "running", "stop"]

START_S = 240.0
STOP_S = 60.0
POLL_S = 0.02
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster that answers. `kubeconfig`: the administrator's file. `registry`: where images are pushed and pulled, by HTTP."""

    kubeconfig: Path
    registry: str
    pid: int
    born: str

    @property
    def environment(self) -> dict[str, str]:
        """What programs need to reach it."""
        return {"KUBECONFIG": str(self.kubeconfig)}

    @property
    def config(self) -> dict[str, str]:
        """What a stack's config says to be on it."""
        return {
            "ekiben:registry": f"http://{self.registry}",
            "ekiben:pythonImage": f"{self.registry}/{images.BASE}",
            "ekiben:cpuShare": "0.1",  # one node, of as many cores as this machine has, holds it all
            "ekiben:wheels": "true",  # pods reach no index
            "ekiben:storeImage": f"{self.registry}/{images.S3_GATEWAY}",
            **(knative.CONFIG if knative.installed(_layout()) else {}),
        }


def running() -> bool:
    """Does the cluster run, or is it being started?"""
    return locked(state_dir() / LOCK)


def found() -> Cluster | None:
    """The cluster, if it runs and answers."""
    at = _layout()
    try:
        about = json.loads((at.state / ABOUT).read_text("utf-8"))
        alive = (at.state / LOCK).read_text("ascii") == str(about["pid"]) and running()
        return (
            Cluster(kubeconfig=at.kubeconfig, registry=REGISTRY, pid=about["pid"], born=about["born"])
            if alive
            else None
        )
    except (OSError, ValueError, KeyError):
        return None


def ensure(say: Say = lambda line: None, *, fresh: bool = False) -> Cluster:
    """The cluster, which is built and started where it does not run. Returns when pods can run in it.

    What was in it before is in it again, unless `fresh`. `say` gets a line now and then: the first time takes minutes. Raises
    Unsupported where this machine cannot have one, with the reason; ProviderError where a build fails; Unavailable where it
    does not start.
    """
    if fresh:
        stop()
        forget()
    if (cluster := found()) is not None:
        return cluster
    if not running():
        if _layout().hidden:
            raise SpecError(
                f"A cluster cannot lie at {state_dir()}. Let XDG_STATE_HOME and XDG_CACHE_HOME be outside /var/lib."
            )
        build(say)
        say("Starting the cluster")
        _start()
    deadline = time.monotonic() + START_S
    while (cluster := found()) is None:
        if not running() or time.monotonic() > deadline:
            raise _failed("it ended at once" if time.monotonic() < deadline else "it does not answer")
        time.sleep(POLL_S)
    return cluster


def install_knative(say: Say = lambda line: None) -> Cluster:
    """Have Knative Serving in the cluster that runs; returns when it takes services. Raises what `knative.ensure` does."""
    knative.ensure(_layout(), say)
    return ensure(say)


def install_trainer(say: Say = lambda line: None) -> None:
    """Have Kubeflow's Trainer in the cluster that runs; returns when it takes TrainJobs. Raises what `trainer.ensure` does."""
    trainer.ensure(_layout(), say)


def build(say: Say) -> None:
    """Have all that a cluster takes: Debian's packages, the binaries, the images' layers. Raises as `ensure` does."""
    if reason := machine.why_not():
        raise Unsupported(f"No cluster can be started here: {reason}.")
    machine.install(say)
    binaries.ensure(say)
    images.ensure(say)


def stop() -> None:
    """Stop the cluster, and return when nothing of it is left on this machine but its state folder; silent where none runs.

    Raises Unavailable when it does not end.
    """
    at = _layout()
    deadline = time.monotonic() + STOP_S
    while running():
        with suppress(OSError, ValueError):
            os.kill(int((at.state / LOCK).read_text("ascii")), signal.SIGTERM)
        if time.monotonic() > deadline:
            raise Unavailable(
                "kubernetes", "stop the cluster", f"it still runs after {STOP_S:g} s", f"Look at {at.state / LOG}"
            )
        time.sleep(POLL_S)
    if at.state.exists() and machine.why_not() == "":
        machine.sweep()  # for one that was killed


def forget() -> None:
    """Remove the state of a cluster that does not run: objects, images that were pulled or pushed, volumes, keys."""
    shutil.rmtree(state_dir(), ignore_errors=True)


def _start() -> None:
    at = _layout()
    daemon.prepare(at.state, "kubernetes")
    command = [sys.executable, "-P", "-m", "ekiben.emulators.kubernetes.keeper", str(at.state), str(at.bin)]
    try:
        done = subprocess.run(
            command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(f"it did not answer within {START_S:g} s") from error
    # Another program may have started it at the same time: then this one was refused, and all is well.
    if done.returncode != 0 and not running():
        raise _failed(done.stderr.strip() or "it ended at once")


def _layout() -> Layout:
    return Layout(state_dir(), binaries.cache() / "bin")


def _failed(why: str) -> Unavailable:
    log = tail(state_dir() / LOG).strip()
    return Unavailable(
        "kubernetes", "start the cluster", why.rstrip("."),
        "Mend that and try again" + (f". The end of {state_dir() / LOG}:\n{log}" if log else ""),
    )  # fmt: skip
