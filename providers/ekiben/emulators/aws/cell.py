"""`python -I cell.py BASE HOSTS COMMAND...`: become a command that finds BASE at /opt/ml, and the host names of the file HOSTS.

Only the command and what it starts see it (a mount namespace of Linux). Where the kernel does not allow that to this user,
SAGEMAKER_BASE_DIR says where BASE is, as it does for AWS's own containers. It imports nothing of Ekiben.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys

PLACE = "/opt/ml"
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18


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


def main(base: str, hosts: str, command: list[str]) -> None:
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
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
