"""An OpenTelemetry collector that takes OTLP over HTTP, decodes it for real, and misbehaves when it is told to."""

from __future__ import annotations

import gzip
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

__all__ = ["Collector", "collecting"]


class Collector(http.server.ThreadingHTTPServer):
    """`spans` and `points` are what has come, in plain values. `status` is what it answers, and nothing while `held` is clear."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.held = threading.Event()
        self.held.set()
        self.asked: list[str] = []
        self.spans: list[dict[str, Any]] = []
        self.points: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def named(self, name: str) -> list[dict[str, Any]]:
        return [span for span in self.spans if span["name"] == name]

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = _values(group.resource.attributes)
                self.spans += [_span(span, resource) for scope in group.scope_spans for span in scope.spans]
        elif path == "/v1/metrics":
            for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                metrics = [metric for scope in group.scope_metrics for metric in scope.metrics]
                self.points += [
                    {
                        "name": metric.name, "unit": metric.unit, "count": point.count, "sum": point.sum,
                        "bounds": list(point.explicit_bounds), **_values(point.attributes),
                    }
                    for metric in metrics
                    for point in metric.histogram.data_points
                ]  # fmt: skip
        else:
            raise ValueError(path)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Collector

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)
        self.server.held.wait(60)
        if self.server.status == 200:
            self.server.take(
                self.path, gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            )
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def collecting() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.held.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _span(span: Any, resource: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": span.name, "kind": span.kind, "trace_id": span.trace_id.hex(), "span_id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(), "state": span.trace_state, "status": span.status.code, "resource": resource,
        "seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9, "attributes": _values(span.attributes),
        "events": [{"name": event.name, **_values(event.attributes)} for event in span.events],
    }  # fmt: skip


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
