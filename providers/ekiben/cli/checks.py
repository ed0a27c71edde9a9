"""The checks of `ekiben doctor`: each looks at one thing, changes nothing, and says what to do."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import platform as host
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ekiben.cli.platform import project, state_dir
from ekiben.errors import EkibenError

__all__ = ["Check", "checks"]

PYTHONS = ((3, 11), (3, 13))
DISK_FAIL_GIB, DISK_WARN_GIB = 1, 5
# What each cloud's SDK reads; only the names that are set are shown.
CREDENTIALS = {
    "aws": (
        "AWS_PROFILE",
        "AWS_ACCESS_KEY_ID",
        "AWS_ROLE_ARN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    ),
    "gcp": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "GOOGLE_PROJECT", "CLOUDSDK_CONFIG"),
    "azure": (
        "AZURE_CLIENT_ID",
        "AZURE_TENANT_ID",
        "AZURE_SUBSCRIPTION_ID",
        "AZURE_CLIENT_SECRET",
        "ARM_SUBSCRIPTION_ID",
    ),
    "kubernetes": ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"),
    "pulumi": (
        "PULUMI_ACCESS_TOKEN",
        "PULUMI_BACKEND_URL",
        "PULUMI_CONFIG_PASSPHRASE",
        "PULUMI_CONFIG_PASSPHRASE_FILE",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was found. `remedy` is empty when nothing is to be done."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""


def checks(stack: str) -> list[Check]:
    """All checks. One that breaks is a warning, not the end of the others."""
    found = []
    for check in (_python, _pulumi, _plugin, _packages, _uv, _git, _folder, _disk, _machine, _gpu, _loopback):
        found.append(_guarded(check))
    folder = state_dir(stack)
    found.append(_guarded(lambda: _station(folder), "station"))
    found.append(_guarded(lambda: _port(folder), "port"))
    return [*found, *(_credentials(cloud) for cloud in CREDENTIALS)]


def _guarded(check: Callable[[], Check], name: str = "") -> Check:
    try:
        return check()
    except (OSError, ValueError, subprocess.SubprocessError, EkibenError) as error:
        label = name or check.__name__.strip("_")
        return Check(
            name=label, state="warn", detail=f"cannot be told: {error}", remedy="Look at what the message names."
        )


def _python() -> Check:
    detail = f"{host.python_version()} at {sys.executable}"
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return Check(name="python", state="ok", detail=detail)
    low, high = (".".join(map(str, version)) for version in PYTHONS)
    return Check(name="python", state="fail", detail=detail, remedy=f"Use Python {low} to {high}.")


def _pulumi() -> Check:
    from ekiben.engine.pulumi_cli import find

    passed_over: list[str] = []
    cli = find(project(), passed_over.append)
    if cli is None:
        return Check(
            name="pulumi", state="fail", detail="; ".join(passed_over) or "there is no Pulumi CLI",
            remedy="Get it with `make setup`, `python -m ekiben.engine`, or Pulumi's own installer.",
        )  # fmt: skip
    return Check(name="pulumi", state="ok", detail=f"{cli.version} at {cli.path}")


def _plugin() -> Check:
    name = "pulumi-resource-ekiben"
    path = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if path is None:
        return Check(
            name="plugin", state="fail", detail=f"{name} is not there",
            remedy="Install Ekiben with pip (or `make setup`), which puts it beside python.",
        )  # fmt: skip
    return Check(name="plugin", state="ok", detail=path)


def _packages() -> Check:
    needed = {"pulumi": "iac", "aiohttp": "local", "bentoml": "serve"}
    missing = {package: extra for package, extra in needed.items() if importlib.util.find_spec(package) is None}
    if not missing:
        return Check(name="packages", state="ok", detail=", ".join(needed))
    extras = ",".join(sorted(set(missing.values())))
    return Check(
        name="packages", state="fail", detail=f"not installed: {', '.join(missing)}",
        remedy=f"Install them with: pip install 'ekiben[{extras}]'.",
    )  # fmt: skip


def _uv() -> Check:
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    path = shutil.which("uv", path=beside)
    if path is None:
        return Check(
            name="uv", state="warn", detail="uv is not there: locked environments of bentos and jobs cannot be made",
            remedy="Install it with: pip install uv.",
        )  # fmt: skip
    return Check(name="uv", state="ok", detail=path)


def _git() -> Check:
    path = shutil.which("git")
    if path is None:
        return Check(
            name="git", state="warn", detail="git is not there: lineage cannot name the commit", remedy="Install git."
        )
    return Check(name="git", state="ok", detail=path)


def _folder() -> Check:
    folder = project()
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check(
            name="folder", state="fail", detail=f"{folder} cannot be written: {error.strerror}",
            remedy="Make it writable, or work in another folder.",
        )  # fmt: skip
    return Check(name="folder", state="ok", detail=f"{folder} can be written")


def _disk() -> Check:
    free_gib = shutil.disk_usage(project()).free / 2**30
    state: Literal["ok", "warn", "fail"] = (
        "fail" if free_gib < DISK_FAIL_GIB else "warn" if free_gib < DISK_WARN_GIB else "ok"
    )
    remedy = "" if state == "ok" else "Free some space; caches can go: `uv cache clean`, `pip cache purge`."
    return Check(name="disk", state=state, detail=f"{free_gib:.1f} GiB free", remedy=remedy)


def _machine() -> Check:
    from ekiben.station import machine

    return Check(name="machine", state="ok", detail=f"{len(machine.cpus())} CPUs, {machine.memory_mib()} MiB of memory")


def _gpu() -> Check:
    from ekiben.station import machine

    found = [f"{gpu.name} ({gpu.memory_mib} MiB)" for gpu in machine.gpus()]
    return Check(name="gpu", state="ok", detail=", ".join(found) or "none: runs that ask for GPUs are refused here")


def _loopback() -> Check:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            pass
    except OSError as error:
        return Check(
            name="loopback", state="fail", detail=f"no port can be had on 127.0.0.1: {error.strerror}",
            remedy="Allow programs to listen on 127.0.0.1: a sandbox or a firewall forbids it.",
        )  # fmt: skip
    return Check(name="loopback", state="ok", detail="ports can be had on 127.0.0.1")


def _station(folder: Path) -> Check:
    from ekiben.station.client import Client, running

    if not folder.is_dir():
        return Check(name="station", state="ok", detail=f"the stack {folder.name!r} has none yet")
    if not running(folder):
        if not (folder / "platform.json").exists():
            return Check(name="station", state="ok", detail=f"the stack {folder.name!r} has none")
        return Check(
            name="station", state="warn", detail=f"the station of {folder.name!r} does not run",
            remedy="Start it with: ekiben station --background.",
        )  # fmt: skip
    client = Client(folder)
    try:
        client.request("GET", "/readyz", timeout_s=5)
    except EkibenError as error:
        return Check(
            name="station", state="fail", detail=f"it runs and does not answer: {error}",
            remedy=f"Look at {folder / 'station.log'}; restart it with: ekiben station --stop; ekiben station --background.",
        )  # fmt: skip
    return Check(name="station", state="ok", detail=f"answers at {client.url}")


def _port(folder: Path) -> Check:
    """Is the port that the station had, and that addresses of endpoints hold, still its own?"""
    from ekiben.station.client import running

    try:
        port = int(json.loads((folder / "station.json").read_text(encoding="utf-8"))["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return Check(name="port", state="ok", detail="any free one will be taken")
    if running(folder):
        return Check(name="port", state="ok", detail=f"{port}, held by the station")
    try:
        with socket.create_server(("127.0.0.1", port)):
            return Check(name="port", state="ok", detail=f"{port} is free for the station")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return Check(
            name="port", state="warn", detail=f"{port}, which the station had, is used by another program",
            remedy="Stop that program, or let the station take another port: addresses of endpoints then change.",
        )  # fmt: skip


def _credentials(cloud: str) -> Check:
    found = [name for name in CREDENTIALS[cloud] if os.environ.get(name)]
    detail = f"set: {', '.join(found)}" if found else "none in the environment; `local` needs none"
    return Check(name=f"credentials {cloud}", state="ok", detail=detail)
