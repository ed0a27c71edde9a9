"""BentoML's own application with the service of service.py, in a process of its own: a line is a request, and a line its status."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import sys
import tempfile
from typing import Any, NoReturn

__all__: list[str] = []


def unknown(*_: object, **__: object) -> NoReturn:
    raise socket.gaierror(socket.EAI_NONAME, "there is no network here")


async def status_of(app: Any, asked: dict[str, str]) -> int:
    body = base64.b64decode(asked["body"])
    headers = [(b"host", b"x"), (b"content-length", str(len(body)).encode())]
    if asked["kind"]:
        # As a server of HTTP gives it: without the blanks around it.
        headers.append((b"content-type", asked["kind"].strip(" \t").encode("latin-1")))
    sent = iter([{"type": "http.request", "body": body, "more_body": False}])
    found: list[int] = []
    over = asyncio.Event()

    async def receive() -> dict[str, Any]:
        for message in sent:
            return message
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])

    path = asked["path"]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers, "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2), "state": {},
    }  # fmt: skip
    try:
        await asyncio.wait_for(app(scope, receive, send), 10)
    except Exception:
        return 500
    return found[0] if found else 500


async def serve() -> None:
    from ekiben.serving import bentoml_app

    app, _ = bentoml_app.application(
        {"service": f"{__package__}.service:Probe", "name": "fuzzed", "version": "1"},
        tempfile.mkdtemp(prefix="fuzz-"),
        None,
    )
    logging.disable(logging.CRITICAL)
    socket.getaddrinfo = unknown
    begun, over = asyncio.Event(), asyncio.Event()
    messages = iter([{"type": "lifespan.startup"}])

    async def receive() -> dict[str, Any]:
        for message in messages:
            return message
        await over.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: dict[str, Any]) -> None:
        begun.set()

    lifespan = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send))
    await begun.wait()
    answers = sys.stdout
    sys.stdout = sys.stderr
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(await status_of(app, json.loads(line)), file=answers, flush=True)
    over.set()
    await lifespan


if __name__ == "__main__":
    asyncio.run(serve())
