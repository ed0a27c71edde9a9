"""A span and a duration for each request, by OpenTelemetry, where the standard OTEL_* variables ask for them.

Nothing of OpenTelemetry is imported where they do not. Names are those of the stable conventions for HTTP:
https://opentelemetry.io/docs/specs/semconv/http/.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from . import tracing
from .exchange import Exchange
from .watching import Watched

if TYPE_CHECKING:
    from .application import Application

__all__ = ["Providers", "Spans", "asked", "provide", "start"]

SIGNALS = ("traces", "metrics")
SCOPE = "ekiben.serving"
METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))
# Advised for http.server.request.duration, in seconds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
UNKNOWN = "unknown"
log = logging.getLogger("ekiben.serving")


def asked() -> dict[str, list[str]]:
    """The exporters that the environment asks for, by signal; empty where it asks for none."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return {}
    found = {}
    for signal in SIGNALS:
        name = signal.upper()
        named = os.environ.get(f"OTEL_{name}_EXPORTER", "")
        if not named and any(
            os.environ.get(key) for key in ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT")
        ):
            named = "otlp"
        if exporters := [each.strip() for each in named.split(",") if each.strip() not in ("", "none")]:
            found[signal] = exporters
    return found


def start(application: Application) -> Spans | None:
    """What the environment asks for, set up; None where it asks for nothing, or cannot be had, which the log says."""
    providers = provide(application.service.name, application.about)
    return Spans(application, providers) if providers is not None else None


def provide(service: str, about: dict[str, str]) -> Providers | None:
    """The providers that the environment asks for; None where it asks for none, or they cannot be had, which the log says."""
    wanted = asked()
    if not wanted:
        return None
    try:
        exporters = {signal: [_exporter(signal, name)() for name in names] for signal, names in wanted.items()}
        return Providers(_resource(service, about), exporters)
    except ImportError as error:
        log.warning(
            "OpenTelemetry is configured, and the bento's environment lacks %s: nothing is exported. Add opentelemetry-sdk and "
            "opentelemetry-exporter-otlp-proto-http to what the bento requires.", error.name or error,
        )  # fmt: skip
    except Exception as error:
        log.warning("OpenTelemetry is configured, and cannot be set up: nothing is exported: %s", error)
    return None


def _exporter(signal: str, name: str) -> Any:
    """The class behind a name, as packages register it. Raises ImportError."""
    from importlib.metadata import entry_points

    import opentelemetry.sdk  # noqa: F401 - by its own name, where it is what is missing

    if name == "otlp":
        protocols = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        protocol = next((value for key in protocols if (value := os.environ.get(key))), "http/protobuf")
        name = f"otlp_proto_{protocol.partition('/')[0]}"
    for found in entry_points(group=f"opentelemetry_{signal}_exporter", name=name):
        return found.load()
    package = f"opentelemetry-exporter-{name.replace('_', '-')}"
    raise ImportError(f"the exporter {name}", name=package)


class Providers:
    """Of spans and of measurements, None where nobody wants them. Everything in this process gets them."""

    def __init__(self, resource: Any, exporters: dict[str, list[Any]]) -> None:
        self._flushes: list[Callable[[], object]] = []
        self.tracer = self._traces(resource, exporters["traces"]) if "traces" in exporters else None
        self.meter = self._metrics(resource, exporters["metrics"]) if "metrics" in exporters else None

    def flush(self, done: Callable[[], object]) -> None:
        """Send what has not been sent, in a thread that waits for the network, and then call `done` there."""

        def flush() -> None:
            for each in self._flushes:
                try:
                    each()
                except Exception:
                    log.exception("the last spans could not be sent")
            done()

        threading.Thread(target=flush, name="flush", daemon=True).start()

    def _traces(self, resource: Any, exporters: list[Any]) -> Any:
        """The service's own provider, where it has set one."""
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider: Any = trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider):
            provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            for exporter in exporters:
                provider.add_span_processor(BatchSpanProcessor(exporter))
            trace.set_tracer_provider(provider)
            self._flushes.append(provider.shutdown)
        elif hasattr(provider, "force_flush"):
            self._flushes.append(provider.force_flush)
        return provider

    def _metrics(self, resource: Any, exporters: list[Any]) -> Any:
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader

        readers = [
            exporter if isinstance(exporter, MetricReader) else PeriodicExportingMetricReader(exporter)
            for exporter in exporters
        ]
        provider = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        metrics.set_meter_provider(provider)
        self._flushes.append(provider.shutdown)
        return provider


class Spans:
    """The spans and durations of an application's requests: `handle` begins, `failed` and `ended` are told, `stop` flushes."""

    def __init__(self, application: Application, providers: Providers) -> None:
        from opentelemetry import propagate, trace

        self._application, self._trace, self._propagate, self._providers = application, trace, propagate, providers
        self._fields = {field.encode(): field for field in propagate.get_global_textmap().fields}
        self._tracer: Any = providers.tracer and providers.tracer.get_tracer(SCOPE)
        self._duration = providers.meter and providers.meter.get_meter(SCOPE).create_histogram(
            "http.server.request.duration", "s", "Duration of HTTP server requests.",
            explicit_bucket_boundaries_advisory=list(BUCKETS),
        )  # fmt: skip

    def handle(self, exchange: Exchange) -> None:
        """Have it answered, within a span of its own unless it asks after the server's health."""
        answer = self._application.handle
        if self._tracer is None or exchange.target.partition(b"?")[0] in self._application.health:
            answer(exchange) if exchange.trace is None else tracing.run(answer, exchange)
            return
        context = contextvars.copy_context()
        try:
            context.run(self._begin, exchange)
        except Exception:  # a sampler or a propagator of somebody's own
            log.exception("a request has no span")
        context.run(answer, exchange)

    def failed(self, exchange: Exchange, error: BaseException) -> None:
        if exchange.trace is not None and exchange.trace.span is not None:
            exchange.trace.span.record_exception(error)
            exchange.trace.error = _name_of(error)

    def ended(self, exchange: Watched) -> None:
        if exchange.target.partition(b"?")[0] in self._application.health:
            return
        method, status = _method(exchange), exchange.status
        said: dict[str, Any] = {"http.response.status_code": status} if status else {}
        if exchange.endpoint not in ("", UNKNOWN):
            said["http.route"] = exchange.endpoint
        trace = exchange.trace
        if status >= 500:
            said["error.type"] = (trace.error if trace is not None else "") or str(status)
        if trace is not None and (span := trace.span) is not None:
            span.set_attributes(said)
            if "http.route" in said:
                span.update_name(f"{_spoken(method)} {exchange.endpoint}")
            if status >= 500:
                span.set_status(self._trace.StatusCode.ERROR)
            span.end()
        if self._duration is not None:
            seconds = time.perf_counter() - exchange.started
            told = {
                "http.request.method": method,
                "url.scheme": "http",
                "network.protocol.version": _version(exchange),
                **said,
            }
            self._duration.record(seconds, told)

    async def stop(self) -> None:
        """Send what has not been sent. The caller bounds it."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def told() -> None:
            with suppress(RuntimeError):  # nobody has waited
                loop.call_soon_threadsafe(done.set)

        self._providers.flush(told)
        await done.wait()

    def _begin(self, exchange: Exchange) -> None:
        from opentelemetry import context

        given = {
            self._fields[name]: value.decode("latin-1") for name, value in exchange.headers if name in self._fields
        }
        for name in ("traceparent", "tracestate"):
            given.pop(name, None)
        if (parent := exchange.trace) is not None:
            given["traceparent"] = f"00-{parent.trace_id}-{parent.span_id}-{parent.flags:02x}"
            given |= {"tracestate": parent.state} if parent.state else {}
        outer = self._propagate.extract(given, context.Context())
        method, waited_s = _method(exchange), time.perf_counter() - exchange.started
        span = self._tracer.start_span(
            _spoken(method), outer, self._trace.SpanKind.SERVER, _attributes(exchange, method),
            start_time=time.time_ns() - int(waited_s * 1e9),
        )  # fmt: skip
        own = span.get_span_context()
        exchange.trace = tracing.Trace(f"{own.trace_id:032x}", f"{own.span_id:016x}", int(own.trace_flags), span=span)
        context.attach(self._trace.set_span_in_context(span, outer))
        tracing.enter(exchange.trace)


def _resource(service: str, about: dict[str, str]) -> Any:
    """Who this is, as BentoML says it; what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say comes first."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    said = {
        "service.name": service, "service.namespace": about.get("name", ""),
        "service.version": about.get("version", ""), "service.instance.id": f"{os.uname().nodename}:{os.getpid()}",
    }  # fmt: skip
    given = OTELResourceDetector().detect()
    return Resource.create({key: value for key, value in said.items() if value}).merge(given)


def _attributes(exchange: Exchange, method: str) -> dict[str, Any]:
    """What there is to say when a request has come. The query is left out: there may be secrets in it."""
    host, _, port = exchange.header(b"host").decode("latin-1").rpartition(":")
    if not port.isdecimal():
        host, port = exchange.header(b"host").decode("latin-1"), ""
    peer = exchange.connection.peer
    said: dict[str, Any] = {
        "http.request.method": method, "url.scheme": "http", "network.protocol.version": _version(exchange),
        "url.path": exchange.target.partition(b"?")[0].decode("latin-1"), "server.address": host,
        "user_agent.original": exchange.header(b"user-agent").decode("latin-1"),
    }  # fmt: skip
    if port:
        said["server.port"] = int(port)
    if method == "_OTHER":
        said["http.request.method_original"] = exchange.method.decode("latin-1")
    if isinstance(peer, tuple):
        said |= {"client.address": peer[0], "network.peer.address": peer[0], "network.peer.port": peer[1]}
    return {key: value for key, value in said.items() if value != ""}


def _method(exchange: Exchange) -> str:
    method = exchange.method.decode("latin-1")
    return method if method in METHODS else "_OTHER"


def _spoken(method: str) -> str:
    return "HTTP" if method == "_OTHER" else method


def _version(exchange: Exchange) -> str:
    return "1.1" if exchange.chunks else "1.0"


def _name_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
