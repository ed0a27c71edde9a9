"""The lean server answers as BentoML's own does: the same requests, good and bad, to both.

Where they differ it is on purpose: BentoML's own answer to a wrong request is then a 500, which blames the service.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .asked import JSON, NOT_JSON, OTHERS, POSTED, WRONG, sendable
from .conftest import Answer, Served, folder, served

SERVICE = Path(__file__).with_name("shapes") / "service.py"


def content(answer: Answer) -> Any:
    kind = answer.headers.get("content-type", "")
    return answer.json if kind == "application/json" and answer.body else answer.body


def compared(answer: Answer) -> tuple[Any, ...]:
    body = repr(content(answer))  # NaN is not equal to itself
    allow = sorted(answer.headers.get("allow", "").split(", "))
    return answer.status, answer.headers.get("content-type"), body, allow


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Served]]:
    root = tmp_path_factory.mktemp("same")
    bento = folder(root / "bento", SERVICE.read_text(encoding="utf-8"))
    with served(bento, root / "lean") as ours, served(bento, root / "bentoml", own=True) as theirs:
        assert "BentoML's own server runs this service" not in ours.log.read_text()
        assert "BentoML's own server runs this service" in theirs.log.read_text()
        yield ours, theirs


def test_what_is_posted_is_answered_alike(both: tuple[Served, Served]) -> None:
    for path, given in POSTED:
        ours, theirs = (compared(each.send("POST", path, sendable(given), JSON)) for each in both)
        assert ours == theirs, (path, given)


def test_other_methods_types_and_forms_are_answered_alike(both: tuple[Served, Served]) -> None:
    for method, path, body, headers in OTHERS:
        ours, theirs = (compared(each.send(method, path, body, headers)) for each in both)
        assert ours == theirs, (method, path, body)


def test_a_wrong_request_is_a_400_where_bentoml_answers_500(both: tuple[Served, Served]) -> None:
    ours, theirs = both
    for path, given, headers in WRONG:
        assert theirs.send("POST", path, sendable(given), headers).status == 500, (path, given)
        answer = ours.send("POST", path, sendable(given), headers)
        assert answer.status == 400, (path, given)
        told = answer.json if isinstance(answer.json, dict) else answer.json[0]
        assert told["error"]


def test_what_the_service_raised_is_in_the_log_and_not_in_the_answer(both: tuple[Served, Served]) -> None:
    ours, _ = both
    answer = ours.send("POST", "/crash", b"{}", JSON)
    assert answer.status == 500
    assert b"secret" not in answer.body
    log = ours.log.read_text()
    assert "Exception on /crash [POST]" in log
    assert "RuntimeError: secret of the server" in log


def test_answers_are_json_where_bentomls_are_not(both: tuple[Served, Served]) -> None:
    ours, theirs = both
    for path, given, expected in NOT_JSON:
        assert b"NaN" in (body := theirs.send("POST", path, sendable(given), JSON).body) or b"Infinity" in body
        assert ours.send("POST", path, sendable(given), JSON).json == expected


def test_headers_and_cookies_of_the_methods_own(both: tuple[Served, Served]) -> None:
    for path, given in (("/told", {"status": 202}), ("/told_stream", {"status": 202}), ("/file_out", {"text": "abc"})):
        ours, theirs = (each.post(path, given).headers for each in both)
        for name in ("x-told", "set-cookie", "content-disposition"):
            assert ours.get(name) == theirs.get(name), (path, name)


def test_the_openapi_document_is_the_same(both: tuple[Served, Served]) -> None:
    ours, theirs = (each.send("GET", "/docs.json") for each in both)
    assert (ours.status, theirs.status) == (200, 200)
    # A server that was started from a bento says its version; this one of BentoML's was started from the code.
    told, other = ours.json, theirs.json
    assert (told["info"].pop("version"), other["info"].pop("version")) == ("abc", "None")
    assert told == other


def test_a_call_that_takes_too_long_is_a_504_and_the_next_is_answered(both: tuple[Served, Served]) -> None:
    for each in both:
        assert each.post("/slow", {"s": 5}).json == {"error": "Not able to process the request in 2 seconds"}
        assert each.post("/slow_sync", {"s": 2.5}).status == 504
        assert each.post("/one", {"person": {"age": 3}}).status == 200


def test_bentomls_own_client_calls_it(both: tuple[Served, Served]) -> None:
    import bentoml
    import numpy

    for each in both:
        with bentoml.SyncHTTPClient(f"http://127.0.0.1:{each.port}") as client:
            assert client.many(people=[{"age": 1}])[0]["score"] == 1
            assert client.array(x=numpy.eye(2)).tolist() == [[1.0, 0.0], [0.0, 1.0]]
            assert list(client.stream(n=2)) == ["0\n", "1\n"]
            assert client.file(f=Path(__file__), n=2)["n"] == 2


PREFIXED = """
import bentoml

@bentoml.service(path_prefix="/v1", threads=2, envs=[{"name": "GREETING", "value": "hello"}])
class Probe:
    alive = True

    def __is_ready__(self) -> bool:
        return self.alive

    async def __is_alive__(self) -> bool:
        return self.alive

    def __metrics__(self, text: str) -> str:
        return text + "own_metric 1\\n"

    @bentoml.api
    def greet(self, name: str) -> str:
        import os
        return f"{os.environ['GREETING']} {name}"

    @bentoml.api
    def sicken(self) -> None:
        self.alive = False
"""
ASKED = (
    ("GET", "/v1/livez"), ("GET", "/v1/readyz"), ("GET", "/livez"), ("POST", "/v1/greet"), ("POST", "/greet"),
    ("POST", "/v1/greet/"), ("GET", "/v1/greet"), ("GET", "/v1"), ("GET", "/v1/"), ("GET", "/schema.json"), ("GET", "/"),
    ("POST", "/v1/sicken"), ("GET", "/v1/livez"), ("GET", "/v1/readyz"), ("GET", "/v1/healthz"),
)  # fmt: skip


def test_a_prefix_health_of_its_own_and_declared_variables(tmp_path: Path) -> None:
    bento = folder(tmp_path / "bento", PREFIXED)
    with served(bento, tmp_path / "lean") as ours, served(bento, tmp_path / "bentoml", own=True) as theirs:
        for method, path in ASKED:
            both = (
                each.send(method, path, b'{"name": "you"}' if method == "POST" else None) for each in (ours, theirs)
            )
            mine, other = (compared(answer) for answer in both)
            assert mine == other, (method, path)
        texts = [each.send("GET", "/v1/metrics").body.decode() for each in (ours, theirs)]
        assert [text.endswith("own_metric 1\n") for text in texts] == [True, True]
        assert counts(texts[0]) == counts(texts[1])


def counts(text: str) -> set[str]:
    """The names and labels of what is counted of the service's own routes."""
    return {
        line.rpartition("}")[0]
        for line in text.splitlines()
        if line.startswith("bentoml_service_request_total") and '"/v1/greet"' in line
    }
