"""A server that a platform has given a token answers those who show it, and the probes; each answer names its revision."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from ekiben.serving import callers

from .conftest import folder, served

REVISION = "v3-1a2b3c4d"
SERVICE = """
import bentoml

@bentoml.service
class Probe:
    @bentoml.api
    def double(self, x: int) -> int:
        return 2 * x
"""


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EKIBEN_SERVER_TOKEN", "a-token")
    monkeypatch.setenv("EKIBEN_SERVER_REVISION", REVISION)


def asked(path: str, *headers: tuple[bytes, bytes]) -> tuple[int, dict[bytes, bytes], bytes]:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": b"{}"})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": list(headers)}
    asyncio.run(callers.Asgi(application, ["/readyz"])(scope, None, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(one.get("body", b"") for one in sent)


@pytest.mark.parametrize("shown", [(b"authorization", b"Bearer a-token"), (b"x-ekiben-token", b"a-token")])
def test_who_shows_the_token_is_answered(shown: tuple[bytes, bytes]) -> None:
    status, headers, _ = asked("/predict", shown)
    assert (status, headers[b"x-own"], headers[b"x-ekiben-revision"]) == (200, b"1", REVISION.encode())
    assert headers[b"x-ekiben-since-ms"].isdigit()


@pytest.mark.parametrize(
    "shown",
    [(), ((b"authorization", b"Bearer other"),), ((b"authorization", b""),), ((b"x-ekiben-token", b"a-toke\xff"),)],
)
def test_who_does_not_is_refused_and_probes_are_not(shown: tuple[tuple[bytes, bytes], ...]) -> None:
    status, headers, body = asked("/predict", *shown)
    assert (status, headers[b"www-authenticate"]) == (401, b"Bearer")
    assert json.loads(body) == {"error": "the token is missing or wrong"}
    assert asked("/readyz", *shown)[0] == 200


def test_without_a_token_anybody_may_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EKIBEN_SERVER_TOKEN")
    assert asked("/predict")[0] == 200


@pytest.mark.parametrize("own", [False, True], ids=["lean", "bentoml"])
def test_both_servers_ask_for_it(tmp_path: Path, own: bool) -> None:
    with served(folder(tmp_path / "bento", SERVICE), tmp_path / "server", own=own) as worker:
        assert worker.post("/double", {"x": 2}).status == 401
        assert worker.post("/double", {"x": 2}, authorization="Bearer no").status == 401
        answer = worker.post("/double", {"x": 2}, authorization="Bearer a-token")
        assert (answer.status, answer.body, answer.headers["x-ekiben-revision"]) == (200, b"4", REVISION)
        assert [worker.send("GET", path).status for path in ("/livez", "/readyz", "/metrics")] == [200] * 3
        assert worker.send("GET", "/schema.json").status == 401
