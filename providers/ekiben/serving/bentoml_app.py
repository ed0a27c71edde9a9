"""BentoML's own application under uvicorn, for services that are not plain."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import loading, otel, sagemaker
from .limits import Limits

__all__ = ["application", "run"]

# BentoML's own limit comes a little later than the gateway's, so that it is the gateway that answers 504.
TIMEOUT_MARGIN_S = 5.0


def run(
    about: dict[str, str],
    listeners: list[socket.socket],
    *,
    metrics_dir: str,
    shared: str | None,
    timeout_s: float | None,
    predictions: dict[str, Any] | None = None,
    ready: Callable[[], object] = lambda: None,
) -> None:
    """Serve until SIGTERM. Raises what the service's import raises; exits with 3 when it does not start."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics_dir
    os.environ.setdefault("BENTOML_RESULT_STORE", str(Path(shared or metrics_dir) / "tasks.db"))
    if not _writable(os.environ.get("BENTOML_HOME") or os.path.expanduser("~/bentoml")):
        os.environ["BENTOML_HOME"] = str(Path(metrics_dir) / "bentoml")
    import uvicorn

    app, telemetry = application(about, metrics_dir, timeout_s, predictions)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="on",
        timeout_keep_alive=3600,
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if not self.should_exit:
                ready()

    # uvicorn raises the signal that ended it once more: what is still to be done must be done.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    Server(config).run(sockets=listeners)
    if telemetry is not None:
        flushed = threading.Event()
        telemetry.flush(flushed.set)
        flushed.wait(Limits.from_environment().flush_timeout_s)


def _writable(folder: str) -> bool:
    """Could it be made, or written in? BentoML wants to, at its import."""
    while not os.path.exists(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    return os.path.isabs(folder) and os.access(folder, os.W_OK)


def application(
    about: dict[str, str], metrics_dir: str, timeout_s: float | None, predictions: dict[str, Any] | None = None
) -> tuple[Any, otel.Providers | None]:
    """The application, and what is to be flushed when it has ended."""
    from _bentoml_sdk import images
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.context import server_context
    from bentoml._internal.log import configure_server_logging
    from bentoml._internal.utils.uri import join_paths

    configure_server_logging()
    BentoMLContainer.prometheus_multiproc_dir.set(metrics_dir)
    # The image is of no use here, and BentoML refuses to read its requirements.txt below a hidden folder such as .ekiben.
    images.resolve_user_filepath = lambda path, ctx: str(Path(path).resolve())
    service = loading.imported(about["service"])
    loading.apply_envs([{"name": each.name, "value": each.value, "stage": each.stage} for each in service.envs])
    for model in service.models:
        model.resolve()
    for name in dir(service.inner):
        hook = getattr(service.inner, name)
        if callable(hook) and getattr(hook, "__bentoml_deployment_hook__", False):
            hook()
    if service.needs_task_db():
        from _bentoml_impl.tasks.result import Sqlite3Store

        Sqlite3Store.init_db(BentoMLContainer.result_store_file.get())
    server_context.service_type = "entry_service"
    server_context.service_name = service.name
    server_context.bento_name = about.get("name", service.name)
    server_context.bento_version = about.get("version", "")
    server_context.service_routes = [join_paths(service.path_prefix, api.route) for api in service.apis.values()]
    server_context.worker_index = 1
    if timeout_s is not None:
        service.config.setdefault("traffic", {}).setdefault("timeout", timeout_s + TIMEOUT_MARGIN_S)
    service.config.setdefault("logging", {}).setdefault("access", {}).setdefault("enabled", False)
    if not _writable(os.getcwd()):  # where bentoml.monitor would write, and fail each prediction when it cannot
        options = service.config.setdefault("monitoring", {}).setdefault("options", {})
        options.setdefault("log_path", str(Path(metrics_dir) / "monitoring"))
    telemetry = otel.provide(service.name, about) if "tracing" not in service.config else None
    if telemetry is not None:
        _trace(telemetry)
    if predictions is not None:
        _log(service, predictions, server_context.service_routes)
    own = set(server_context.service_routes)
    predict = sagemaker.default(service.apis)
    app = sagemaker.with_paths(
        service.to_asgi(is_main=True), own, join_paths(service.path_prefix, "/readyz"),
        join_paths(service.path_prefix, service.apis[predict].route) if predict else "",
    )  # fmt: skip
    if any(name in os.environ for name in ("EKIBEN_SERVER_TOKEN", "EKIBEN_SERVER_REVISION")):
        from . import callers

        asked = ("/livez", "/readyz", "/healthz", "/metrics")
        app = callers.Asgi(app, [join_paths(service.path_prefix, path) for path in asked])
    return app, telemetry


def _log(service: Any, given: dict[str, Any], routes: list[str]) -> None:
    """Have the service's answers logged, as the lean server logs them."""
    from bentoml._internal.configuration.containers import BentoMLContainer

    from .predictions import COUNTERS, Middleware

    client = BentoMLContainer.metrics_client.get()
    counters = {kind: client.Counter(name, what) for kind, (name, what) in COUNTERS.items()}
    service.add_asgi_middleware(
        Middleware, given=given, routes=frozenset(routes), count=lambda kind: counters[kind].inc(),
        flush_timeout_s=Limits.from_environment().flush_timeout_s,
    )  # fmt: skip


def _trace(telemetry: otel.Providers) -> None:
    """Have BentoML's spans and measurements exported, with the names that the lean server gives them."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from opentelemetry.util.http import ExcludeList

    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    BentoMLContainer.tracing_excluded_urls.set(ExcludeList(["/livez$", "/readyz$", "/healthz$", "/metrics$"]))
    if telemetry.tracer is not None:
        BentoMLContainer.tracer_provider.set(telemetry.tracer)
