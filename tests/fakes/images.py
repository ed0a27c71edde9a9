"""A registry of images, as the distribution spec has it: manifests and blobs in memory, with a token where a login is asked for."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["Registry", "serving"]


class Registry(http.server.ThreadingHTTPServer):
    """login: "user:password" that a token costs, empty for nothing. fail: statuses to answer with first; cut: how many answers
    end a byte too early. seen: (method, path).
    """

    daemon_threads = True

    def __init__(self, login: str) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.login, self.token = login, uuid.uuid4().hex
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.fail: list[int] = []
        self.cut = 0
        self.seen: list[tuple[str, str]] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def add(self, repository: str, tag: str, manifest: dict[str, Any], kind: str, *blobs: bytes) -> None:
        """An image that is there."""
        self.blobs.update({_digest(blob): blob for blob in blobs})
        body = json.dumps(manifest).encode()
        for reference in (tag, _digest(body)):
            self.manifests[repository, reference] = (kind, body)


class _Request(http.server.BaseHTTPRequestHandler):
    server: Registry
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        self.server.seen.append((self.command, parts.path))
        if parts.path == "/token":
            given = base64.b64decode(self.headers.get("authorization", "").removeprefix("Basic ")).decode()
            ok = given == self.server.login
            self._say(200 if ok else 401, json.dumps({"token": self.server.token}).encode() if ok else b"")
        elif self.server.login and self.headers.get("authorization") != f"Bearer {self.server.token}":
            ask = f'Bearer realm="http://{self.server.host}/token",service="images"'
            self._say(401, headers={"www-authenticate": ask})
        elif self.server.fail:
            self._say(self.server.fail.pop(0))
        else:
            self._answer(parts.path, parse_qs(parts.query), body)

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs/uploads|blobs)/([^/]*)", path)
        assert found is not None, path
        repository, what, reference = found.groups()
        if what == "manifests" and self.command == "PUT":
            told = json.loads(body)
            if missing := [one for one in (told["config"], *told["layers"]) if one["digest"] not in self.server.blobs]:
                error = {"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "message": f"no blob {missing[0]['digest']}"}]}
                self._say(400, json.dumps(error).encode())
                return
            for name in (reference, _digest(body)):
                self.server.manifests[repository, name] = (self.headers["content-type"], body)
            self._say(201, headers={"docker-content-digest": _digest(body)})
        elif what == "manifests":
            kind, told_body = self.server.manifests.get((repository, reference), ("", b""))
            headers = {"content-type": kind, "docker-content-digest": _digest(told_body)}
            self._say(200 if kind else 404, told_body, headers if kind else {})
        elif self.command == "POST":
            self._say(202, headers={"location": f"/v2/{repository}/blobs/uploads/{uuid.uuid4().hex}?state=x"})
        elif self.command == "PUT":
            ok = _digest(body) == query["digest"][0]
            if ok:
                self.server.blobs[_digest(body)] = body
            self._say(201 if ok else 400)
        else:
            self._say(200 if reference in self.server.blobs else 404, self.server.blobs.get(reference, b""))

    def _say(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and body and self.server.cut:
            self.server.cut -= 1
            self.close_connection = True
            self.wfile.write(body[:-1])
        elif self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(login: str = "") -> Iterator[Registry]:
    with Registry(login) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
