"""Messages between `ekiben invoke` and its workers: a JSON header and raw buffers. Standard library only.

Buffers are laid out as Arrow and numpy have them in memory, so neither side makes an object per row, and the bento's
environment needs no pyarrow. Both sides load this file: a worker by path.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

__all__ = ["receive", "send"]

LENGTH = struct.Struct("<Q")


def send(channel: socket.socket, header: dict[str, Any], buffers: Sequence[Any] = ()) -> None:
    """Send one message. `buffers` are bytes or anything with contiguous bytes in it. Raises OSError when nobody is there."""
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    text = json.dumps({**header, "sizes": [len(view) for view in views]}).encode()
    channel.sendall(LENGTH.pack(len(text)) + text)
    for view in views:
        channel.sendall(view)


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[bytearray]]:
    """The next message. Raises EOFError when the other side is gone."""
    (length,) = LENGTH.unpack(_exactly(channel, LENGTH.size))
    header: dict[str, Any] = json.loads(_exactly(channel, length))
    return header, [_exactly(channel, size) for size in header.pop("sizes")]


def _exactly(channel: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, have = memoryview(data), 0
    while have < size:
        try:
            got = channel.recv_into(view[have:])
        except ConnectionResetError:
            got = 0
        if not got:
            raise EOFError("the other side is gone")
        have += got
    return data
