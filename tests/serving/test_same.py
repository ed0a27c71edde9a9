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
    assert "Exception on" in ours.log.read_text()  # what the service raised is in the log


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
