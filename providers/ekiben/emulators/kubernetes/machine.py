"""What this machine has to have for a cluster, what is said where it has not, and what a cluster that died leaves on it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ekiben.emulators.kubernetes import binaries
from ekiben.emulators.kubernetes.layout import CGROUP, CNI_PLUGINS, DEVICE, HOST, PODS, PREFIX, SERVICES
from ekiben.errors import NotFound, ProviderError

__all__ = ["install", "routes", "sweep", "why_not"]

PROVIDER = "kubernetes"
CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuset", "memory", "pids")
# A file that each Debian package brings, and the package.
PACKAGES = {
    "/usr/sbin/runc": "runc",
    f"{CNI_PLUGINS}/ptp": "containernetworking-plugins",
    "/usr/sbin/iptables": "iptables",
    "/usr/sbin/conntrack": "conntrack",
    "/usr/sbin/ip": "iproute2",
    "/usr/sbin/debootstrap": "debootstrap",
    "/usr/bin/docker-registry": "docker-registry",
    "/usr/bin/catatonit": "catatonit",
    "/usr/bin/unshare": "util-linux",
    "/usr/bin/mount": "mount",
}
INSTALL_LIMIT_S = 900.0
GONE_S = 20.0
POLL_S = 0.05


def why_not() -> str:
    """Why no cluster can be here, without a full stop; empty where one can, be it after packages are installed and built."""
    if sys.platform != "linux":
        return f"a cluster's node is a Linux machine, and this is {platform.system()}"
    if os.geteuid() != 0:
        return "a cluster's node makes namespaces and cgroups, which takes root, and this is another user"
    if lacking := _controllers_lacking():
        return f"there is no cgroup controller {', '.join(lacking)}"
    if not _may("unshare", "--net", "--mount", "--pid", "--fork", "true"):
        return "this machine does not let its root make namespaces"
    if binaries.missing() and shutil.which("go") is None:
        return "the cluster's binaries are not built, and there is no Go to build them (Go 1.26 or newer)"
    if _packages() and shutil.which("apt-get") is None:
        return f"programs are missing that Debian has in {', '.join(_packages())}, and there is no apt-get"
    return ""


def install(say: Callable[[str], None]) -> None:
    """Have Debian's packages. Raises NotFound, which names them, where they cannot be installed."""
    names = _packages()
    if not names:
        return
    say(f"Installing Debian's {', '.join(names)}")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *names]
    told = ""
    try:
        for one in (["apt-get", "update"], command):
            done = subprocess.run(
                one,
                env=quiet,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=INSTALL_LIMIT_S,
                check=False,
            )
            told = (done.stderr or done.stdout).strip()[-500:]
    except (OSError, subprocess.SubprocessError) as error:
        told = str(error)
    if names := _packages():
        raise NotFound(
            PROVIDER, "have a cluster on this machine", f"Debian's {', '.join(names)} could not be installed: {told}".rstrip("."),
            f"Install them: {' '.join([*command[:2], *names])}",
        )  # fmt: skip


def routes(pid: int) -> None:
    """Join this machine's network to that of the process `pid`: a pair of devices, and routes to pods and services through it.

    Raises ProviderError. All of it goes when that network does.
    """
    from ekiben.emulators.kubernetes.layout import NODE, PEER

    taken = [one for one in _routes() if one in (PODS, SERVICES)]
    if taken:
        raise ProviderError(
            PROVIDER,
            "join the cluster's network",
            f"{', '.join(taken)} leads elsewhere already",
            "Take that route away",
        )
    for command in (
        ["link", "add", DEVICE, "type", "veth", "peer", "name", PEER, "netns", str(pid)],
        ["address", "add", f"{HOST}/{PREFIX}", "dev", DEVICE],
        ["link", "set", DEVICE, "up"],
        ["route", "add", PODS, "via", NODE, "dev", DEVICE],
        ["route", "add", SERVICES, "via", NODE, "dev", DEVICE],
    ):
        done = subprocess.run(["ip", *command], capture_output=True, text=True, timeout=30, check=False)
        if done.returncode != 0:
            raise ProviderError(
                PROVIDER, "join the cluster's network", f"`ip {' '.join(command)}`: {done.stderr.strip()}"
            )


def sweep() -> None:
    """Take away what is left on this machine of a cluster whose processes have ended, however they ended. Raises ProviderError.

    Its processes, mounts and network went with its namespaces; cgroups stay until somebody removes them.
    """
    deadline = time.monotonic() + GONE_S
    while left := _groups() + ([DEVICE] if Path("/sys/class/net", DEVICE).exists() else []):
        for name in left:
            if name == DEVICE:
                subprocess.run(["ip", "link", "delete", DEVICE], capture_output=True, timeout=30, check=False)
            else:
                # A frozen process does not end; one that hangs in the kernel ends when it can.
                _kill(Path(name))
                with suppress(OSError):
                    os.rmdir(name)
        if time.monotonic() > deadline:
            raise ProviderError(
                PROVIDER, "stop the cluster", f"{', '.join(left[:3])} cannot be removed", "Look which process holds it"
            )
        time.sleep(POLL_S)


def make_groups() -> None:
    """The cgroup below which all pods are, in every hierarchy."""
    for place in _hierarchies():
        group = place / CGROUP
        group.mkdir(exist_ok=True)
        # The first kind of cpusets begins empty, and nothing can run there.
        for name in ("cpuset.cpus", "cpuset.mems"):
            with suppress(OSError):
                if not (group / name).read_text("ascii").strip():
                    (group / name).write_text((place / name).read_text("ascii"), "ascii")


def _hierarchies() -> list[Path]:
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [
        place
        for place in sorted(CGROUPS.iterdir())
        if place.is_dir() and not place.is_symlink() and os.path.ismount(place)
    ]


def _groups() -> list[str]:
    """The cluster's cgroups, the innermost first."""
    found = []
    for place in _hierarchies() if CGROUPS.is_dir() else []:
        found += [folder for folder, _, _ in os.walk(place / CGROUP, topdown=False)]
    return found


def _kill(group: Path) -> None:
    with suppress(OSError):
        for pid in (group / "cgroup.procs").read_text("ascii").split():
            with suppress(OSError):
                os.kill(int(pid), 9)


def _controllers_lacking() -> list[str]:
    try:
        there = (CGROUPS / "cgroup.controllers").read_text("ascii").split()
    except OSError:
        there = [place.name for place in CGROUPS.iterdir()] if CGROUPS.is_dir() else []
    return [name for name in CONTROLLERS if name not in there]


def _packages() -> list[str]:
    return sorted(package for file, package in PACKAGES.items() if not os.path.exists(file))


def _routes() -> list[str]:
    done = subprocess.run(["ip", "-json", "route"], capture_output=True, text=True, timeout=30, check=False)
    return [one.get("dst", "") for one in json.loads(done.stdout or "[]")]


def _may(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
