"""A connection to a station's socket: bytes as a test writes them, answers as they were written."""

from __future__ import annotations

import re
import socket
from contextlib import suppress

from tests.waiting import PATIENCE_S

from .conftest import Station

BODY = b'{"x": 3}'


class Raw:
    """A connection, and answers read from it as they were written."""

    def __init__(self, host: Station) -> None:
        port = int(host.client.url.rpartition(":")[2])
        self.token = (host.state_dir / "token").read_text()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def head(self, target: str, *lines: str, method: str = "POST", minor: int = 1) -> bytes:
        given = [
            f"{method} {target} HTTP/1.{minor}",
            "Host: localhost",
            f"Authorization: Bearer {self.token}",
            *lines,
            "",
            "",
        ]
        return "\r\n".join(given).encode("latin-1")

    def request(self, name: str, route: str = "predict", body: bytes = BODY, *lines: str) -> bytes:
        return self.head(f"/endpoints/{name}/{route}", f"Content-Length: {len(body)}", *lines) + body

    def send(self, data: bytes) -> Raw:
        self.socket.sendall(data)
        return self

    def answer(self, *, bodiless: bool = False) -> tuple[int, dict[str, str], bytes]:
        first = self.file.readline()
        match = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [ -~]+\r\n", first)
        assert match, first
        headers: dict[str, str] = {}
        while (line := self.file.readline()) != b"\r\n":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if bodiless:
            return int(match[1]), headers, b""
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.file.readline(), 16):
                body += self.file.read(size)
                assert self.file.read(2) == b"\r\n"
            assert self.file.readline() == b"\r\n"
        elif "content-length" in headers:
            body = self.file.read(int(headers["content-length"]))
        else:
            body = self.file.read()
        return int(match[1]), headers, body

    def closed(self) -> bool:
        """Nothing more comes. (A connection that is broken off has ended, too.)"""
        with suppress(ConnectionResetError):
            return self.file.read() == b""
        return True
