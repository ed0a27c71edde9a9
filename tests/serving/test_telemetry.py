"""Traces: a request's is known to its log lines and its method, and exported as spans where OpenTelemetry is configured."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ekiben.serving.tracing import of_caller
from tests.fakes.collector import Collector, collecting
from tests.waiting import PATIENCE_S, until

from .conftest import Served, folder, served

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
SERVER_SPAN, ERROR = 2, 2  # in OTLP
SERVICE = """
import logging
from collections.abc import AsyncGenerator, Generator

import bentoml
from opentelemetry import trace

log = logging.getLogger("probe")
tracer = trace.get_tracer("probe")

def where() -> str:
    found = trace.get_current_span().get_span_context()
    log.info("at work")
    return f"{found.trace_id:032x} {found.span_id:016x} {int(found.trace_flags)} {found.trace_state.to_header()}"

@bentoml.service(http={"response": {"trace_id": True}})
class Probe:
    @bentoml.api
    def blocking(self, n: int = 1) -> str:
        return where()

    @bentoml.api
    async def awaited(self) -> str:
        return where()

    @bentoml.api
    def with_context(self, ctx: bentoml.Context) -> str:
        return f"{where()}{ctx.request.scope['trace_id']:032x}"

    @bentoml.api
    async def stream(self) -> AsyncGenerator[str, None]:
        yield where()
        yield "."

    @bentoml.api
    def stream_blocking(self) -> Generator[str, None, None]:
        yield where()
        yield "."

    @bentoml.api
    def nested(self) -> str:
        with tracer.start_as_current_span("inside") as span:
            span.set_attribute("rows", 3)
            return where()

    @bentoml.api
    def fail(self) -> str:
        raise LookupError("not here")
"""
BARE = """
import bentoml

@bentoml.service
class Probe:
    @bentoml.api
    def one(self, x: int) -> int:
        return x
"""
METHODS = ("blocking", "awaited", "with_context", "stream", "stream_blocking")


@pytest.mark.parametrize(
    ("value", "known"),
    [
        (SAMPLED, True), (UNSAMPLED, True), (f"00-{TRACE}-{PARENT}-ff", True), (f" {SAMPLED}\t", True),
        (f"cc-{TRACE}-{PARENT}-01", True), (f"cc-{TRACE}-{PARENT}-01-what-comes-later", True),
        (f"cc-{TRACE}-{PARENT}-01.later", False), (f"00-{TRACE}-{PARENT}-01-more", False), (f"00-{TRACE}-{PARENT}-01-", False),
        (f"ff-{TRACE}-{PARENT}-01", False), (f"00-{'0' * 32}-{PARENT}-01", False), (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{PARENT}-01", False), (f"00-{TRACE[:-1]}-{PARENT}-01", False), (f"0-{TRACE}-{PARENT}-01", False),
        (f"00-{TRACE}-{PARENT}-1", False), (f"00-{TRACE}-{PARENT}", False), (f"00_{TRACE}_{PARENT}_01", False), ("", False),
        (f"00-{TRACE}-{PARENT}-01,{SAMPLED}", False), (f"00-{TRACE}-{PARENT}-01\n", False), ("٣" * 55, False),
    ],
)  # fmt: skip
def test_a_traceparent_is_read_strictly(value: str, known: bool) -> None:
    found = of_caller([(b"host", b"x"), (b"traceparent", value.encode())])
    assert (found is not None) == known
    if found is not None:
        assert (found.trace_id, found.span_id) == (TRACE, PARENT)
        assert of_caller([(b"traceparent", value.encode())] * 2) is None


@pytest.mark.parametrize(
    ("values", "state"),
    [
        (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (["a=1 , b=2", "c@v=3"], "a=1,b=2,c@v=3"), (["a=1,,"], "a=1"), ([""], ""), ([], ""),
        (["a=1,a=2"], ""), (["A=1"], ""), (["a=1,b"], ""), (["a=é"], ""), (["a=1=2"], ""), (["a="], ""),
        ([",".join(f"k{n}=v" for n in range(32))], ",".join(f"k{n}=v" for n in range(32))),
        ([",".join(f"k{n}=v" for n in range(33))], ""), (["a=" + "x" * 256], "a=" + "x" * 256), (["a=" + "x" * 257], ""),
    ],
)  # fmt: skip
def test_a_malformed_tracestate_is_left_out_and_the_trace_stays(values: list[str], state: str) -> None:
    found = of_caller([(b"traceparent", SAMPLED.encode()), *((b"tracestate", value.encode()) for value in values)])
    assert found is not None
    assert (found.trace_id, found.state) == (TRACE, state)


def lines(worker: Served, what: str) -> list[str]:
    return [line for line in worker.log.read_text().splitlines() if what in line]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("plain")
    with served(folder(root / "bento", SERVICE), root / "lean") as worker:
        assert "BentoML's own server runs this service" not in worker.log.read_text()
        yield worker


@pytest.mark.parametrize("method", METHODS)
def test_the_callers_trace_is_current_in_every_kind_of_method_and_in_its_log_lines(plain: Served, method: str) -> None:
    for _ in range(40):  # a blocking method is called in a thread at first, and then without one
        answer = plain.post(f"/{method}", {}, traceparent=SAMPLED, tracestate="a=1")
        assert answer.body.decode().startswith(f"{TRACE} {PARENT} 1 a=1"), answer
        assert answer.headers["x-bentoml-trace-id"] == TRACE
    assert f"probe: at work (trace={TRACE},span={PARENT},sampled=1)" in lines(plain, "at work")[-1]
    for malformed in ({}, {"traceparent": "00-what-is-01"}):
        if method != "with_context":
            assert plain.post(f"/{method}", {}, **malformed).body.decode().startswith("0" * 32)
            assert lines(plain, "at work")[-1].endswith("at work")


def test_what_fails_says_in_the_log_whose_trace_it_was(plain: Served) -> None:
    assert plain.post("/fail", {}, traceparent=UNSAMPLED).status == 500
    assert lines(plain, "Exception on /fail")[-1].endswith(f"(trace={TRACE},span={PARENT},sampled=0)")
    assert plain.post("/fail", {}).status == 500
    assert lines(plain, "Exception on /fail")[-1].endswith("[POST]")


def test_requests_on_one_connection_have_each_their_own_trace(plain: Served) -> None:
    def request(trace: str) -> bytes:
        given = f"traceparent: {trace}\r\n" if trace else ""
        return f"POST /blocking HTTP/1.1\r\nhost: x\r\n{given}content-length: 2\r\n\r\n{{}}".encode()

    wanted = ["", SAMPLED, "", UNSAMPLED, "", f"00-{'a' * 32}-{PARENT}-01", ""] * 20
    connection = plain.connect()
    connection.sendall(b"".join(request(trace) for trace in wanted))
    with connection.makefile("rb") as file:
        for trace in wanted:
            length = 0
            while (line := file.readline()) != b"\r\n":
                length = int(line.split(b":")[1]) if line.startswith(b"content-length") else length
            assert file.read(length).split()[0].decode() == (trace[3:35] or "0" * 32)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as server:
        yield server


def configured(collector: Collector, **more: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "100",
        "OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test", **more,
    }  # fmt: skip


def test_a_request_is_a_span_with_what_the_conventions_ask_for(tmp_path: Path, collector: Collector) -> None:
    bento = folder(tmp_path / "bento", SERVICE)
    with served(bento, tmp_path / "lean", env=configured(collector, OTEL_EXPORTER_OTLP_COMPRESSION="gzip")) as worker:
        said = worker.post(
            "/blocking?token=s3cret", {}, traceparent=SAMPLED, tracestate="a=1", user_agent="probe/1"
        ).body
        span = until(lambda: collector.named("POST /blocking"), "the span is there")[0]
        assert said.decode().split() == [TRACE, span["span_id"], "1", "a=1"]
        assert (span["trace_id"], span["parent"], span["state"]) == (TRACE, PARENT, "a=1")
        assert (span["kind"], span["status"]) == (SERVER_SPAN, 0)
        assert 0 < span["seconds"] < 60
        assert span["attributes"] == {
            "http.request.method": "POST", "http.response.status_code": 200, "http.route": "/blocking", "url.path": "/blocking",
            "url.scheme": "http", "network.protocol.version": "1.1", "server.address": "127.0.0.1",
            "server.port": worker.port, "client.address": "127.0.0.1", "network.peer.address": "127.0.0.1",
            "network.peer.port": span["attributes"]["network.peer.port"], "user_agent.original": "probe/1",
        }  # fmt: skip
        assert span["resource"]["service.name"] == "shop"
        assert span["resource"]["service.namespace"] == "probe"
        assert span["resource"]["service.version"] == "abc"
        assert span["resource"]["deployment.environment.name"] == "test"
        assert f"span={span['span_id']},sampled=1" in lines(worker, "at work")[-1]


def test_spans_of_the_service_itself_failures_and_unknown_paths(tmp_path: Path, collector: Collector) -> None:
    with served(folder(tmp_path / "bento", SERVICE), tmp_path / "lean", env=configured(collector)) as worker:
        inner_id = worker.post("/nested", {}).body.decode().split()[1]
        assert f"span={inner_id}" in lines(worker, "at work")[-1]
        worker.post("/fail", {})
        worker.post("/blocking", {"n": "no number"})
        worker.send("GET", "/wp-login.php")
        worker.send("BREW", "/blocking")
        worker.send("GET", "/metrics")
    outer, inner = collector.named("POST /nested")[0], collector.named("inside")[0]
    assert (inner["parent"], inner["trace_id"], inner["attributes"]) == (
        outer["span_id"],
        outer["trace_id"],
        {"rows": 3},
    )
    assert (outer["parent"], inner["span_id"]) == ("", inner_id)
    failed = collector.named("POST /fail")[0]
    assert (failed["status"], failed["attributes"]["error.type"]) == (ERROR, "LookupError")
    assert failed["events"][0]["exception.message"] == "not here"
    wrong = collector.named("POST /blocking")[0]
    assert (wrong["status"], wrong["attributes"]["http.response.status_code"]) == (0, 400)
    assert "error.type" not in wrong["attributes"]
    stray = collector.named("GET")[0]
    assert (stray["attributes"]["url.path"], stray["attributes"]["http.response.status_code"]) == ("/wp-login.php", 404)
    assert "http.route" not in stray["attributes"]
    assert not [span for span in collector.spans if span["attributes"].get("url.path") in ("/metrics", "/readyz")]


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_method_runs_inside_its_span(tmp_path: Path, collector: Collector, method: str) -> None:
    with served(folder(tmp_path / "bento", SERVICE), tmp_path / "lean", env=configured(collector)) as worker:
        spans = {worker.post(f"/{method}", {}).body.decode().split()[1] for _ in range(40)}
    assert {span["span_id"] for span in collector.named(f"POST /{method}")} == spans
    assert len(spans) == 40


def test_what_the_caller_does_not_sample_is_not_exported(tmp_path: Path, collector: Collector) -> None:
    with served(folder(tmp_path / "bento", SERVICE), tmp_path / "lean", env=configured(collector)) as worker:
        said = worker.post("/blocking", {}, traceparent=UNSAMPLED).body.decode().split()
        assert (said[0], said[2]) == (TRACE, "0")
        worker.post("/awaited", {}, traceparent=SAMPLED)
    assert [span["name"] for span in collector.spans] == ["POST /awaited"]


def test_durations_are_measured(tmp_path: Path, collector: Collector) -> None:
    with served(folder(tmp_path / "bento", BARE), tmp_path / "lean", env=configured(collector)) as worker:
        for x in (1, 2, "x"):
            worker.post("/one", {"x": x})
        worker.send("GET", "/livez")
    last = {point["http.response.status_code"]: point for point in collector.points}
    assert {status: point["count"] for status, point in last.items()} == {200: 2, 400: 1}
    assert (last[200]["name"], last[200]["unit"]) == ("http.server.request.duration", "s")
    assert (last[200]["http.route"], last[200]["http.request.method"]) == ("/one", "POST")
    assert last[200]["bounds"][:3] == [0.005, 0.01, 0.025]
    assert 0 < last[200]["sum"] < 60


def test_what_is_not_sent_yet_is_sent_at_the_end(tmp_path: Path, collector: Collector) -> None:
    late = configured(collector, OTEL_BSP_SCHEDULE_DELAY="600000", OTEL_METRIC_EXPORT_INTERVAL="600000")
    with served(folder(tmp_path / "bento", BARE), tmp_path / "lean", env=late) as worker:
        for x in range(20):
            worker.post("/one", {"x": x})
        assert collector.asked == []
    assert len(collector.spans) == 20
    assert worker.process.returncode == 0


def test_a_collector_that_is_down_slow_or_ill_fails_no_request_and_holds_up_no_end(
    tmp_path: Path, collector: Collector
) -> None:
    ill = configured(collector, EKIBEN_SERVER_FLUSH_TIMEOUT_S="1", OTEL_BSP_MAX_QUEUE_SIZE="512")
    for name in ("down", "ill", "slow"):
        collector.status = 500 if name == "ill" else 200
        (collector.held.clear if name == "slow" else collector.held.set)()
        env = {**ill, **({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"} if name == "down" else {})}
        with served(folder(tmp_path / "bento", BARE), tmp_path / name, env=env) as worker:
            assert {worker.post("/one", {"x": x}).status for x in range(100)} == {200}
            if name != "down":
                until(lambda: collector.asked, "the collector is asked")
            worker.process.send_signal(signal.SIGTERM)
            assert worker.process.wait(PATIENCE_S) == 0
        assert collector.spans == []
        collector.asked.clear()


@pytest.mark.parametrize(
    ("env", "files", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, {}, "lacks opentelemetry-exporter-zipkin: nothing is exported"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, {"src/opentelemetry/__init__.py": ""}, "lacks opentelemetry.sdk: nothing is exported"),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_TRACES_SAMPLER": "no such"}, {}, ""),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"}, {}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}, {}, ""),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_said_once_and_the_service_serves(
    tmp_path: Path, env: dict[str, str], files: dict[str, str], said: str
) -> None:
    with served(folder(tmp_path / "bento", BARE, files=files), tmp_path / "lean", env=env) as worker:
        assert worker.post("/one", {"x": 3}, traceparent=SAMPLED).json == 3
        assert len(lines(worker, "OpenTelemetry is configured")) == (1 if said else 0)
        assert said in worker.log.read_text()


def test_without_a_variable_nothing_of_opentelemetry_is_imported(tmp_path: Path) -> None:
    loaded = BARE + (
        "    @bentoml.api\n    def loaded(self) -> list[str]:\n        import sys\n"
        "        return [name for name in sys.modules if 'opentelemetry' in name or name.endswith(('.otel', '.cors', '.access'))]\n"
    )
    with served(folder(tmp_path / "bento", loaded), tmp_path / "lean") as worker:
        assert worker.post("/loaded", {}, traceparent=SAMPLED).json == []


def test_several_callers_at_once_have_each_their_own_trace(plain: Served) -> None:
    wrong: list[Any] = []

    def call(number: int) -> None:
        trace = f"{number + 1:032x}"
        for method in METHODS * 5:
            said = plain.post(f"/{method}", {}, traceparent=f"00-{trace}-{PARENT}-01").body.decode()
            wrong.extend([] if said.startswith(trace) else [(trace, said)])

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_bentomls_own_server_exports_spans_of_the_same_names(tmp_path: Path, collector: Collector) -> None:
    with served(folder(tmp_path / "bento", SERVICE), tmp_path / "own", own=True, env=configured(collector)) as worker:
        assert worker.post("/blocking", {}, traceparent=SAMPLED).body.decode().startswith(TRACE)
        worker.post("/blocking", {}, traceparent=UNSAMPLED)
    span = next(span for span in collector.spans if span["kind"] == SERVER_SPAN)
    assert (span["trace_id"], span["parent"], span["resource"]["service.name"]) == (TRACE, PARENT, "shop")
    assert span["attributes"]["http.request.method"] == "POST"
    assert span["attributes"]["http.response.status_code"] == 200
    assert len([span for span in collector.spans if span["kind"] == SERVER_SPAN]) == 1
    assert "http.server.request.duration" in {point["name"] for point in collector.points}
