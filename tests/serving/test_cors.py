"""Cross-origin requests are answered as BentoML's server, with Starlette's middleware, answers them."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from .conftest import Answer, folder, served

SERVICE = """
import bentoml

@bentoml.service(http={{"cors": {cors!r}}})
class Probe:
    @bentoml.api
    def double(self, x: int) -> int:
        return 2 * x

    @bentoml.api
    def told(self, ctx: bentoml.Context) -> str:
        ctx.response.headers["Vary"] = "Accept"
        ctx.response.headers["Access-Control-Allow-Origin"] = "https://own.example"
        return "told"

    @bentoml.api
    def fail(self) -> str:
        raise RuntimeError("no")

    @bentoml.api
    async def stream(self) -> "collections.abc.AsyncGenerator[str, None]":
        yield "a"
""".replace("import bentoml", "import collections.abc\nimport bentoml", 1)
CONFIGURED: list[dict[str, Any]] = [
    {"access_control_allow_origins": ["https://a.example", "https://b.example"]},
    {"access_control_allow_origins": "*"},
    {
        "access_control_allow_origins": ["*"], "access_control_allow_credentials": True,
        "access_control_allow_methods": ["*"], "access_control_allow_headers": "*", "access_control_max_age": 5,
    },
    {
        "access_control_allow_origins": ["https://a.example"], "access_control_allow_origin_regex": r"https://.*\.b\.example",
        "access_control_allow_methods": ["GET", "POST"], "access_control_allow_headers": ["X-One", "X-Two"],
        "access_control_allow_credentials": True, "access_control_expose_headers": ["X-Request-ID", "X-Told"],
    },
]  # fmt: skip
ORIGINS = (None, "", "null", "https://a.example", "https://A.example", "https://x.b.example", "https://evil.example")
SENT = (
    ("POST", "/double", b'{"x": 2}'), ("POST", "/double", b'{"x": "no"}'), ("POST", "/told", b"{}"), ("POST", "/fail", b"{}"),
    ("POST", "/stream", b"{}"), ("GET", "/livez", None), ("GET", "/nowhere", None), ("GET", "/double", None),
    ("OPTIONS", "/double", None),
)  # fmt: skip
PREFLIGHTS: list[dict[str, str]] = [
    {"access-control-request-method": method, **more}
    for method, more in product(
        ("POST", "GET", "PATCH", "post", "NONE"),
        (
            {},
            {"access-control-request-headers": "content-type, X-One"},
            {"access-control-request-headers": "X-Evil,x-two"},
            {"access-control-request-headers": ""},
            {"access-control-request-private-network": "true"},
        ),
    )
]


def compared(answer: Answer) -> tuple[Any, ...]:
    told = {
        name: value for name, value in answer.headers.items() if name.startswith("access-control-") or name == "vary"
    }
    return answer.status, told, answer.headers.get("content-type"), answer.body


@pytest.mark.parametrize("cors", CONFIGURED, ids=("named", "all", "all with credentials", "pattern"))
def test_both_servers_say_the_same(tmp_path: Path, cors: dict[str, Any]) -> None:
    bento = folder(tmp_path / "bento", SERVICE.format(cors={"enabled": True, **cors}))
    with served(bento, tmp_path / "lean") as ours, served(bento, tmp_path / "bentoml", own=True) as theirs:
        assert "BentoML's own server runs this service" not in ours.log.read_text()
        for origin, (method, path, body) in product(ORIGINS, SENT):
            headers = {"content-type": "application/json", **({} if origin is None else {"origin": origin})}
            mine, other = (compared(each.send(method, path, body, headers)) for each in (ours, theirs))
            assert mine == other, (origin, method, path)
        for origin, asked, path in product(ORIGINS, PREFLIGHTS, ("/double", "/nowhere")):
            headers = {**asked, **({} if origin is None else {"origin": origin})}
            mine, other = (compared(each.send("OPTIONS", path, None, headers)) for each in (ours, theirs))
            assert mine == other, (origin, asked, path)


def test_an_answer_that_comes_before_the_service_is_asked_may_be_read_by_its_page(tmp_path: Path) -> None:
    """Where BentoML leaves it out, and a page sees a network error instead of the 503."""
    limited = SERVICE.format(cors={"enabled": True, "access_control_allow_origins": "*"})
    with served(
        folder(tmp_path / "bento", limited), tmp_path / "lean", env={"EKIBEN_SERVER_MAX_BODY_BYTES": "8"}
    ) as ours:
        answer = ours.send("POST", "/double", b'{"x": 2222222}', {"origin": "https://a.example"})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (413, "*")


def test_cors_without_an_origin_is_refused_when_the_service_starts(tmp_path: Path) -> None:
    bento = folder(tmp_path / "bento", SERVICE.format(cors={"enabled": True}))
    with (
        pytest.raises(AssertionError, match="access_control_allow_origins is not set"),
        served(bento, tmp_path / "lean"),
    ):
        pass
