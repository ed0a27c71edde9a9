"""The access log: a line for each request, as BentoML writes it or as JSON, and nothing in it that is nobody's business."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .conftest import Served, folder, served

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVICE = """
from collections.abc import AsyncGenerator

import bentoml

@bentoml.service(logging={{"access": {access!r}}})
class Probe:
    @bentoml.api
    def double(self, x: int) -> int:
        return 2 * x

    @bentoml.api
    def text(self) -> str:
        return "ü"

    @bentoml.api
    async def stream(self) -> AsyncGenerator[str, None]:
        yield "a"
"""
JSON = {"content-type": "application/json"}
SENT: list[tuple[str, str, bytes | None, dict[str, str]]] = [
    ("POST", "/double?key=s3cret", b'{"x": 2}', {**JSON, "authorization": "Bearer s3cret"}),
    ("POST", "/double", b'{"x": "s3cret"}', JSON), ("POST", "/text", b"{}", {}), ("POST", "/stream", b"{}", JSON),
    ("GET", "/nowhere", None, {}), ("GET", "/double", None, {}), ("GET", "/livez", None, {}), ("GET", "/healthz", None, {}),
    ("HEAD", "/", None, {}), ("POST", "/%64ouble", b'{"x": 2}', JSON),
]  # fmt: skip
LINE = re.compile(r"\S+:\d+ (\(scheme=http,.*\) \(status=.*\)) \d+\.\d{3}ms")


def lines(worker: Served) -> list[str]:
    """What the log says of requests, without addresses and times."""
    return [found[1] for line in worker.log.read_text().splitlines() if (found := LINE.search(line))]


@pytest.mark.parametrize(
    "access",
    [
        {"enabled": True},
        {"enabled": True, "request_content_type": False, "response_content_length": False, "skip_paths": ["/dou", "/liv"]},
        {"enabled": False}, {},
    ],
)  # fmt: skip
def test_both_servers_write_the_same_lines(tmp_path: Path, access: dict[str, Any]) -> None:
    bento = folder(tmp_path / "bento", SERVICE.format(access=access))
    with served(bento, tmp_path / "lean") as ours, served(bento, tmp_path / "bentoml", own=True) as theirs:
        assert "BentoML's own server runs this service" not in ours.log.read_text()
        for method, path, body, headers in SENT:
            for each in (ours, theirs):
                each.send(method, path, body, headers)
    mine, other = ([line for line in lines(each) if "path=/readyz" not in line] for each in (ours, theirs))
    assert mine == other
    assert bool(mine) == bool(access.get("enabled"))
    assert "s3cret" not in ours.log.read_text()


def test_as_json_it_has_what_can_be_joined_with_a_trace(tmp_path: Path) -> None:
    bento = folder(tmp_path / "bento", SERVICE.format(access={}))
    with served(bento, tmp_path / "lean", env={"EKIBEN_SERVER_ACCESS_LOG": "json"}) as worker:
        traced = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
        for method, path, body, headers in SENT:
            worker.send(method, path, body, {**headers, **traced})
        worker.send("POST", "/a%0Ab%1b[2J", b"{}")
    found = [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]
    first = found[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first.pop("client").startswith("127.0.0.1:")
    assert first.pop("duration_ms") > 0
    assert first == {
        "method": "POST", "path": "/double", "status": 200, "request_type": "application/json", "request_bytes": 8,
        "response_type": "application/json", "response_bytes": 1, "request_id": "mine", "trace_id": TRACE, "span_id": PARENT,
    }  # fmt: skip
    streamed = next(line for line in found if line["path"] == "/stream")
    assert streamed["response_bytes"] is None
    assert found[-1]["path"] == "/a\nb\x1b[2J"
    assert "trace_id" not in found[-1]
    assert not {line["path"] for line in found} & {"/livez", "/readyz", "/metrics"}
    assert "s3cret" not in worker.log.read_text()


def test_nobody_writes_lines_of_his_own(tmp_path: Path) -> None:
    bento = folder(tmp_path / "bento", SERVICE.format(access={"enabled": True}))
    with served(bento, tmp_path / "lean") as worker:
        before = len(worker.log.read_text().splitlines())
        worker.send("POST", "/a%0Aforged%20line%1b[2J", b"{}", {"content-type": "text/ü"})
    written = [
        line for line in worker.log.read_text().splitlines()[before:] if "bentoml.access" in line or "forged" in line
    ]
    assert len(written) == 1
    assert "path=/a\\u000aforged line\\u001b[2J,type=text/ü" in written[0]


def test_what_is_refused_before_it_is_read_is_there_too(tmp_path: Path) -> None:
    env = {"EKIBEN_SERVER_ACCESS_LOG": "text", "EKIBEN_SERVER_MAX_BODY_BYTES": "8"}
    with served(folder(tmp_path / "bento", SERVICE.format(access={})), tmp_path / "lean", env=env) as worker:
        assert worker.send("POST", "/double?key=s3cret", b'{"x": 2222222}').status == 413
    assert ["path=/double,type=,length=14" in line and "status=413" in line for line in lines(worker)] == [True]
    assert "s3cret" not in worker.log.read_text()


def test_an_unknown_form_is_refused_when_the_service_starts(tmp_path: Path) -> None:
    bento = folder(tmp_path / "bento", SERVICE.format(access={}))
    with (
        pytest.raises(AssertionError, match="EKIBEN_SERVER_ACCESS_LOG is 'xml', and must be one of text, json, off"),
        served(bento, tmp_path / "lean", env={"EKIBEN_SERVER_ACCESS_LOG": "xml"}),
    ):
        pass
