"""The comments of one pull request: GitHub's and GitLab's routes for them, behind one list."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

REPOSITORY, NUMBER, PROJECT, TOKEN = "acme/shop", 7, 42, "a-token"
LISTS = (f"/repos/{REPOSITORY}/issues/{NUMBER}/comments", f"/projects/{PROJECT}/merge_requests/{NUMBER}/notes")
ONE = re.compile(rf"(?:/repos/{REPOSITORY}/issues/comments|/projects/{PROJECT}/merge_requests/{NUMBER}/notes)/(\d+)")


class Forge(http.server.ThreadingHTTPServer):
    """`comments`: id -> body. `fail`: statuses to answer with, one a request; `lose`: answers lost after the work."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.comments: dict[int, str] = {}
        self.seen: list[str] = []
        self.fail: list[int] = []
        self.lose = 0

    @property
    def github(self) -> dict[str, str]:
        """The environment of a job on GitHub."""
        return {
            "GITHUB_API_URL": f"http://127.0.0.1:{self.server_port}", "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_TOKEN": TOKEN, "PULL_REQUEST": str(NUMBER),
        }  # fmt: skip

    @property
    def gitlab(self) -> dict[str, str]:
        """The environment of a job on GitLab."""
        return {
            "CI_API_V4_URL": f"http://127.0.0.1:{self.server_port}", "CI_PROJECT_ID": str(PROJECT),
            "COMMENT_TOKEN": TOKEN, "CI_MERGE_REQUEST_IID": str(NUMBER),
        }  # fmt: skip


class Handler(http.server.BaseHTTPRequestHandler):
    server: Forge

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def work(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append(f"{self.command} {parts.path}")
        here = "/repos" if parts.path.startswith("/repos") else "/projects"
        known = {"/repos": self.headers.get("Authorization"), "/projects": self.headers.get("PRIVATE-TOKEN")}[here]
        if self.server.fail:
            self.reply(self.server.fail.pop(0), {"message": "as the test asked"})
        elif known not in (TOKEN, f"Bearer {TOKEN}"):
            self.reply(401, {"message": "Bad credentials"})
        elif self.command == "GET" and parts.path in LISTS:
            asked = {name: int(values[0]) for name, values in parse_qs(parts.query).items()}
            first = (asked["page"] - 1) * asked["per_page"]
            listed = [{"id": id, "body": text} for id, text in self.server.comments.items()]
            self.reply(200, listed[first : first + asked["per_page"]])
        elif self.command == "POST" and parts.path in LISTS:
            self.put(max(self.server.comments, default=0) + 1, body)
        elif self.command == {"/repos": "PATCH", "/projects": "PUT"}[here] and (one := ONE.fullmatch(parts.path)):
            self.put(int(one[1]), body)
        else:
            self.reply(404, {"message": "Not Found"})

    do_GET = do_POST = do_PATCH = do_PUT = work  # noqa: N815

    def put(self, id: int, body: bytes) -> None:
        text = json.loads(body)["body"]
        self.server.comments[id] = text
        if self.server.lose:
            self.server.lose -= 1
            self.close_connection = True
            return
        self.reply(201, {"id": id, "body": text})

    def reply(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def forge() -> Iterator[Forge]:
    with Forge() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
