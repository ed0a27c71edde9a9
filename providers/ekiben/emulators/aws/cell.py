"""`python -I cell.py [--cut-off] BASE HOSTS COMMAND...`: become a command that finds BASE at /opt/ml, and the host names of the
file HOSTS; cut off, its network is a loopback device of its own and nothing else.

Only the command and what it starts see it (namespaces of Linux). Where the kernel does not allow that to this user,
SAGEMAKER_BASE_DIR says where BASE is, as it does for AWS's own containers, and the network stays. It imports nothing of Ekiben.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
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
    uid, gid = os.getuid(), os.getgid()

    def mount(source: str, target: str, type_: str, flags: int) -> None:
        if libc.mount(source.encode(), target.encode(), type_.encode(), flags, None):
            raise OSError(ctypes.get_errno(), f"mount {target}")

    if libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if uid else 0)):
        raise OSError(ctypes.get_errno(), "unshare")
    if uid:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    mount("none", "/", "none", MS_REC | MS_PRIVATE)
    if not os.path.isdir(PLACE):
        _make_place(mount)
    mount(base, PLACE, "none", MS_BIND | MS_REC)
    mount(hosts, "/etc/hosts", "none", MS_BIND)


def cut_off() -> None:
    """Leave the machine's network; what is on 127.0.0.1 from now on is this command's. Raises OSError where it cannot be done."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket() as any_:
        fcntl.ioctl(any_, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


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


def main(base: str, hosts: str, command: list[str], *, isolated: bool) -> None:
    try:
        enter(base, hosts)
    except (OSError, AttributeError) as error:
        os.environ["SAGEMAKER_BASE_DIR"] = base
        print(f"[emulator] there is no {PLACE} here ({error}): SAGEMAKER_BASE_DIR says where it is", flush=True)
    if isolated:
        try:
            cut_off()
        except (OSError, AttributeError) as error:
            print(f"[emulator] the network is not cut off, as it would be in SageMaker ({error})", flush=True)
    try:
        os.execvp(command[0], command)  # noqa: S606 - what it was given to run
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    words = sys.argv[1:]
    off = words[0] == "--cut-off"
    main(words[off], words[off + 1], words[off + 2 :], isolated=off)
