"""A service's routes: its methods, and what BentoML's server offers beside them."""

from __future__ import annotations

import asyncio
import contextvars
import importlib.machinery
import inspect
import json
import logging
import mimetypes
import os
import sys
import threading
import time
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from . import failures, openapi, sagemaker
from .endpoint import Endpoint
from .exchange import JSON, TEXT, Exchange
from .limits import Limits
from .metrics import CONTENT_TYPE, Metrics, buckets
from .standin import services
from .standin.context import server_context
from .threads import Threads

if TYPE_CHECKING:
    from .inference import Models

if TYPE_CHECKING:
    from .cors import Cors

__all__ = ["Application", "join"]

TIMEOUT_S = 60.0
WATCH_S = 1.0
STUCK_STATUS = 70
UNKNOWN = "unknown"
log = logging.getLogger("bentoml.serve")

Handler = Callable[[Exchange], None]


class Application:
    """`handle` answers each exchange. `about` is the bento's own bento.yaml: name, version, readme."""

    def __init__(self, service: Any, about: dict[str, str], limits: Limits, shared: Path | None = None) -> None:
        self.service, self.about, self.limits = service, about, limits
        self.instance: Any = None
        self.loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]
        self.tasks: set[asyncio.Task[Any]] = set()
        self.here_since = 0.0
        self.draining = False
        self._watcher: threading.Thread | None = None
        config = service.config
        traffic, metrics = config.get("traffic") or {}, config.get("metrics") or {}
        self.timeout_s = traffic.get("timeout") or TIMEOUT_S
        self._max_concurrency = traffic.get("max_concurrency")
        self.threads = Threads(config.get("threads") or 1)
        prefix = service.path_prefix
        self._posts = {
            join(prefix, method.route): Endpoint(self, name, method) for name, method in service.apis.items()
        }
        self._known = {path.encode(): path for path in self._posts if "%" not in path}
        self._gets: dict[str, Handler] = {
            join(prefix, "/livez"): self._livez, join(prefix, "/healthz"): self._livez,
            join(prefix, "/readyz"): self._readyz, "/schema.json": self._schema,
            join(prefix, "/docs.json"): self._docs, join(prefix, "/"): self._index,
        }  # fmt: skip
        if metrics.get("enabled", True):
            self._gets[join(prefix, "/metrics")] = self._metrics
        self._files = join(prefix, "static_content") + "/"
        self._v2 = join(prefix, "/v2")
        self.cors: Cors | None = None
        self.health = {join(prefix, name).encode() for name in ("/livez", "/readyz", "/healthz", "/metrics")}
        server_context.service_name, server_context.service_type = service.name, "entry_service"
        server_context.bento_name = about.get("name") or service.name
        server_context.bento_version = about.get("version") or "not available"
        server_context.service_routes = list(self._posts)
        self.metrics = Metrics(
            service.name, server_context.bento_name, server_context.bento_version, tuple(self._posts),
            namespace=metrics.get("namespace") or "bentoml_service", bounds=buckets(metrics.get("duration") or {}),
            shared=shared,
        )  # fmt: skip
        self.health.add(sagemaker.PING.encode())
        self._gets.setdefault(sagemaker.PING, self._readyz)
        if (name := sagemaker.default(service.apis)) and sagemaker.INVOCATIONS not in self._posts:
            self._posts[sagemaker.INVOCATIONS] = self._posts[join(prefix, service.apis[name].route)]
            self._known[sagemaker.INVOCATIONS.encode()] = sagemaker.INVOCATIONS

    @property
    def routes(self) -> Collection[str]:
        """Where the service's methods are."""
        return self._posts.keys()

    def handle(self, exchange: Exchange) -> None:
        path = self._known.get(exchange.target) or unquote(exchange.target.partition(b"?")[0].decode("latin-1"))
        exchange.path = path
        self.metrics.in_progress += 1
        post = self._posts.get(path)
        if post is not None and exchange.method == b"POST":
            self.call(exchange, path, post)
            return
        get = self._gets.get(path)
        if get is not None and exchange.method in (b"GET", b"HEAD"):
            exchange.endpoint = path
            get(exchange)
        elif path.startswith(self._files) and exchange.method in (b"GET", b"HEAD"):
            self._static(exchange, path[len(self._files) :])
        else:
            self._elsewhere(exchange, path)

    def call(self, exchange: Exchange, path: str, post: Endpoint) -> None:
        """Call the method at `path`, or say that there are too many calls already."""
        exchange.endpoint = path
        self.metrics.touched()
        busy = self.metrics.in_progress - 1
        if self._max_concurrency and busy >= self._max_concurrency:
            failures.answer_error(exchange, 429, "Too many requests", retry_after_s=1)
        elif busy >= self.limits.max_queue:
            failures.answer_error(exchange, 503, "process is overloaded", retry_after_s=1)
        else:
            post(exchange)

    @cached_property
    def _models(self) -> Models:
        from .inference import Models

        return Models(self, self._posts, self._readyz)

    def _elsewhere(self, exchange: Exchange, path: str) -> None:
        exchange.endpoint = path if path in self._posts or path in self._gets else UNKNOWN
        if self.cors is not None and self.cors.preflight(exchange):
            return
        if (
            path.startswith(self._v2)
            and exchange.endpoint == UNKNOWN
            and self._models.handle(exchange, path[len(self._v2) :])
        ):
            return
        allowed = [b"POST"] * (path in self._posts) + [b"GET", b"HEAD"] * (path in self._gets)
        other = path.rstrip("/") if path.endswith("/") else path + "/"
        if allowed:
            exchange.answer(405, TEXT, b"Method Not Allowed", [(b"allow", b", ".join(allowed))])
        elif path != "/" and (other in self._posts or other in self._gets):
            _, mark, query = exchange.target.partition(b"?")
            where = b"http://%s%s%s%s" % (exchange.header(b"host"), other.encode(), mark, query)
            exchange.answer(307, b"", b"", [(b"location", where)])
        else:
            exchange.answer(404, TEXT, b"Not Found")

    async def start(self) -> None:
        """Make the instance and run its hooks. Raises what they raise."""
        self.loop = asyncio.get_running_loop()
        for _, hook in self._hooks("deployment", self.service.inner):
            hook()
        self.instance = self.service()
        for name, hook in self._hooks("startup", self.instance):
            log.info("Running startup hook: %s", name)
            if inspect.isawaitable(result := hook()):
                await result
        services.set_current(self.instance, self.service.name)

    async def stop(self) -> None:
        for name, hook in self._hooks("shutdown", self.instance):
            log.info("Running cleanup hook: %s", name)
            try:
                if inspect.isawaitable(result := hook()):
                    await result
            except Exception:
                log.exception("The hook %s has failed", name)
        services.set_current(None, self.service.name)

    def spawn(self, work: Any, context: contextvars.Context | None = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = self.loop.create_task(work, context=context)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def watched(self) -> bool:
        """True, and from now on a call on the loop's own thread that never returns ends the process."""
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
            self._watcher.start()
        return True

    def _watch(self) -> None:
        while True:
            time.sleep(WATCH_S)
            since = self.here_since
            if since and time.perf_counter() - since > self.timeout_s + self.limits.stuck_s:
                import faulthandler

                print(
                    f"ekiben: a call has not returned {self.limits.stuck_s} s after its time limit; this worker ends.",
                    file=sys.stderr,
                )
                faulthandler.dump_traceback(all_threads=True)
                os._exit(STUCK_STATUS)

    def _hooks(self, which: str, where: Any) -> list[tuple[str, Any]]:
        inner, mark = self.service.inner, f"__bentoml_{which}_hook__"
        names = [name for name in dir(inner) if not name.startswith("__")]
        return [
            (name, getattr(where, name))
            for name in names
            if callable(member := getattr(inner, name)) and getattr(member, mark, False)
        ]

    def _livez(self, exchange: Exchange) -> None:
        self._ask(exchange, "__is_alive__", "Service is dead because .__is_alive__() returns False.")

    def _readyz(self, exchange: Exchange, told: Any = None) -> None:
        if self.draining:
            self._say(exchange, "Service is going.")
        else:
            otherwise = "Service is not ready because .__is_ready__() returns False."
            self._ask(exchange, "__is_ready__", otherwise, told)

    def _say(self, exchange: Exchange, why: str, told: Any = None) -> None:
        """That all is well, in JSON when `told` is; or why not."""
        if exchange.form is None:
            exchange.answer(503 if why else 200, TEXT, why.encode() or b"\n")
        else:
            failures.answer_json(exchange, 503 if why else 200, {"error": why} if why else told)

    def _ask(self, exchange: Exchange, name: str, otherwise: str, told: Any = None) -> None:
        if not hasattr(self.service.inner, name):
            self._say(exchange, "", told)
            return

        async def ask() -> None:
            try:
                member = getattr(self.instance, name)
                good = await member() if inspect.iscoroutinefunction(member) else await asyncio.to_thread(member)
            except Exception as error:
                failures.answer_failure(exchange, error)
                return
            self._say(exchange, "" if good else otherwise, told)

        self.spawn(ask())

    def _metrics(self, exchange: Exchange) -> None:
        text = self.metrics.text()
        if not hasattr(self.service.inner, "__metrics__"):
            exchange.answer(200, CONTENT_TYPE, text)
            return

        async def ask() -> None:
            try:
                member, given = self.instance.__metrics__, text.decode()
                found = await (
                    member(given) if inspect.iscoroutinefunction(member) else asyncio.to_thread(member, given)
                )
            except Exception as error:
                failures.answer_failure(exchange, error)
                return
            exchange.answer(200, CONTENT_TYPE, found.encode())

        self.spawn(ask())

    def _schema(self, exchange: Exchange) -> None:
        exchange.answer(200, JSON, json.dumps(openapi.schema(self.service), ensure_ascii=False).encode())

    def _docs(self, exchange: Exchange) -> None:
        exchange.answer(200, JSON, json.dumps(openapi.document(self.service, self.about), ensure_ascii=False).encode())

    def _index(self, exchange: Exchange) -> None:
        self._file(exchange, _home("_bentoml_impl") / "server", "main-openapi.html")

    def _static(self, exchange: Exchange, name: str) -> None:
        exchange.endpoint = UNKNOWN
        self._file(exchange, _home("bentoml") / "_internal" / "server" / "static_content", name)

    def _file(self, exchange: Exchange, folder: Path, name: str) -> None:
        try:
            path = (folder / name).resolve()
            content = path.read_bytes() if path.is_relative_to(folder.resolve()) else None
        except (OSError, ValueError):  # no file, or no name that a file could have
            content = None
        if content is None:
            exchange.answer(404, TEXT, b"Not Found")
            return
        media_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
        charset = "; charset=utf-8" if media_type.startswith("text/") else ""
        exchange.answer(200, f"{media_type}{charset}".encode(), content)


def join(*parts: str) -> str:
    """One path of several, with one slash between them."""
    result = ""
    for part in parts:
        if part:
            result = result.rstrip("/") + "/" + part.lstrip("/")
    return result or "/"


def _home(package: str) -> Path:
    """Where a package lies that must not be imported for it."""
    spec = importlib.machinery.PathFinder.find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else Path(os.devnull)
