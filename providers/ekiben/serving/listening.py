"""The last moments of a socket that listens: nobody who got through is hung up on."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from contextlib import suppress

__all__ = ["BACKLOG", "accepted", "refuse_newcomers"]

BACKLOG = 1024
SO_ATTACH_FILTER = 26
# Classic BPF: drop a packet whose TCP flags have SYN, let any other through.
FLAGS_AT, SYN = 13, 0x02
PROGRAM = ((0x30, 0, 0, FLAGS_AT), (0x45, 0, 1, SYN), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


def refuse_newcomers(listener: socket.socket) -> None:
    """Let nobody begin to connect any more, whoever shares the socket; who has begun gets through and must be accepted.

    Closing a socket that listens resets those whom it has let in and nobody has accepted yet. A caller who comes now asks again a
    second later, and then finds the port closed, or another process there. Where the kernel cannot do it, nothing happens.
    """
    if not sys.platform.startswith("linux") or listener.family not in (socket.AF_INET, socket.AF_INET6):
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in PROGRAM))
    with suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(PROGRAM), ctypes.addressof(code))
        )


def accepted(listener: socket.socket) -> list[socket.socket]:
    """Those who are connected and nobody has accepted yet."""
    found = []
    with suppress(OSError):
        while True:
            found.append(listener.accept()[0])
    return found
