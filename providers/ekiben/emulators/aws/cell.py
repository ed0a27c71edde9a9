"""`python -I cell.py [--network FILE] BASE HOSTS COMMAND...`: become a command that finds BASE at /opt/ml, and the host names of
the file HOSTS, in the network whose holder FILE names. `python -I cell.py --hold FILE` is such a holder, until it is ended: of a
network with a loopback device and nothing else, which the instances of a job share.

Only the command and what it starts see it (namespaces of Linux). Where the kernel does not allow that to this user,
SAGEMAKER_BASE_DIR says where BASE is, as it does for AWS's own containers, and the network stays. It imports nothing of Ekiben.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import stat
import struct
import sys

PLACE = "/opt/ml"
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


def enter(base: str, hosts: str) -> None:
    """Raises OSError where it cannot be done."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, type_: str, flags: int) -> None:
        if libc.mount(source.encode(), target.encode(), type_.encode(), flags, None):
            raise OSError(ctypes.get_errno(), f"mount {target}")

    _unshare(CLONE_NEWNS)
    mount("none", "/", "none", MS_REC | MS_PRIVATE)
    if not os.path.isdir(PLACE):
        _make_place(mount)
    mount(base, PLACE, "none", MS_BIND | MS_REC)
    mount(hosts, "/etc/hosts", "none", MS_BIND)


def hold(file: str) -> None:
    """Make a network, say in the file who holds it, and hold it. Raises OSError where it cannot be done."""
    _unshare(CLONE_NEWNET)
    with socket.socket() as any_:
        fcntl.ioctl(any_, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
    with open(f"{file}.new", "w", encoding="ascii") as told:
        told.write(str(os.getpid()))
    os.rename(f"{file}.new", file)
    signal.pause()


def cut_off(file: str) -> None:
    """Go from the machine's network into the one that is held. Raises OSError where it cannot be done."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(file, encoding="ascii") as told:
        holder = told.read()
    for kind, name in ((CLONE_NEWUSER, "user"), (CLONE_NEWNET, "net")):
        if kind == CLONE_NEWUSER and os.getuid() == 0:
            continue
        with open(f"/proc/{holder}/ns/{name}", "rb") as namespace:
            if libc.setns(namespace.fileno(), kind):
                raise OSError(ctypes.get_errno(), f"setns {name}")


def _unshare(kind: int) -> None:
    """As a user like any other, in a namespace where that user may."""
    uid, gid = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(kind | (CLONE_NEWUSER if uid else 0)):
        raise OSError(ctypes.get_errno(), "unshare")
    if uid:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)


def _make_place(mount) -> None:  # type: ignore[no-untyped-def]
    """A folder /opt/ml: in a copy of /opt that has all that the real one has."""
    above, name = os.path.split(PLACE)
    there = os.open(above, os.O_PATH | os.O_DIRECTORY)
    mount("none", above, "tmpfs", 0)
    for entry in os.scandir(f"/proc/self/fd/{there}"):
        target = os.path.join(above, entry.name)
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(entry.path), target)
            continue
        if stat.S_ISDIR(mode):
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
        mount(entry.path, target, "none", MS_BIND | MS_REC)
    os.mkdir(os.path.join(above, name))
    os.close(there)


def main(base: str, hosts: str, command: list[str], *, network: str = "") -> None:
    if network:
        try:
            cut_off(network)
        except (OSError, AttributeError) as error:
            print(f"[emulator] the network is not cut off, as it would be in SageMaker ({error})", flush=True)
    try:
        enter(base, hosts)
    except (OSError, AttributeError) as error:
        os.environ["SAGEMAKER_BASE_DIR"] = base
        print(f"[emulator] there is no {PLACE} here ({error}): SAGEMAKER_BASE_DIR says where it is", flush=True)
    try:
        os.execvp(command[0], command)  # noqa: S606 - what it was given to run
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[0] == "--hold":
        hold(words[1])
    elif words[0] == "--network":
        main(words[2], words[3], words[4:], network=words[1])
    else:
        main(words[0], words[1], words[2:])
