"""Is a service plain enough for the lean server? If not, BentoML's own server runs it, and this says why."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .standin import OWNED, PARTS

__all__ = ["OWNED", "command", "preloaded", "reason", "reason_of_service", "reason_of_surroundings"]

# What a parent imports for the workers of either kind: the server, and what it imports late.
LEAN_MODULES = (
    "_ekiben_serving.lean", "_ekiben_serving.worker", "encodings.ascii", "pydantic._internal._dataclasses", "uvloop",
)  # fmt: skip
BENTOML_MODULES = (
    "bentoml",
    "_bentoml_impl.client",
    "_bentoml_impl.serde",
    "_bentoml_impl.server.app",
    "anyio._backends._asyncio",
    "bentoml._internal.configuration.v2",
    "bentoml._internal.log",
    "bentoml._internal.runner.container",
    "bentoml._internal.server.http.instruments",
    "bentoml._internal.server.http.traffic",
    "bentoml._internal.server.metrics.prometheus",
    "opentelemetry.instrumentation.asgi",
    "opentelemetry.sdk.resources",
    "opentelemetry.sdk.trace",
    "opentelemetry.sdk.trace.export",
    "prometheus_client.multiprocess",
    "prometheus_client.parser",
    "pydantic._internal._dataclasses",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
    "yaml",
)
NEEDED = ("httptools", "pydantic", "pydantic_core", "annotated_types", "typing_extensions")
CONFIGURED = ("BENTOML_CONFIG", "BENTOML_CONFIG_OPTIONS")
# What a service's configuration may say: of no meaning here, or known to the lean server.
OPTIONS = {
    "resources", "workers", "threads", "backlog", "max_runner_connections", "runner_connection", "replicate_process",
    "runner_probe", "endpoints", "monitoring", "grpc", "logging", "metrics", "traffic", "http", "ssl",
}  # fmt: skip
# Attributes that BentoML gives a service's instance, and the stand-in does not.
INSTANCE = {"to_async", "to_sync"}
EXCEPTIONS = "bentoml.exceptions"


def reason_of_surroundings() -> str:
    """Why no service at all can be served by the lean server here; empty when it can."""
    if os.environ.get("EKIBEN_SERVER") == "bentoml":
        return os.environ.get("EKIBEN_SERVER_REASON") or "EKIBEN_SERVER asks for it"
    for name in CONFIGURED:
        if os.environ.get(name):
            return f"{name} configures BentoML"
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return f"the bento's environment lacks {', '.join(missing)}" if missing else ""


def reason(source: Path) -> str:
    """Why the code in `source` needs BentoML itself, as far as reading it tells; empty when it does not."""
    for path in sorted(source.rglob("*.py")):
        text = path.read_bytes()
        if b"bentoml" not in text and not any(name.encode() in text for name in INSTANCE):
            continue
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue  # the import shows it, with its traceback
        for name in _used(tree):
            if not _offered(name):
                return f"it uses {name}"
    return ""


def preloaded(why: str, imports: list[str]) -> list[str]:
    """What to import before workers are forked: the server that the service needs (`why`: its `reason`), and what it imports."""
    if why:
        return [*BENTOML_MODULES, *imports]
    return [*LEAN_MODULES, *(name for name in imports if name.partition(".")[0] not in OWNED)]


def command(python: Path, given: dict[str, Any]) -> list[str]:
    """The command line that serves a bento by itself: see alone.py."""
    return [str(python), "-P", str(Path(__file__).with_name("parent.py")), "--alone", json.dumps(given)]


def reason_of_service(service: Any) -> str:
    """Why an imported service needs BentoML itself; empty when it does not."""
    config = service.config
    if unknown := sorted(set(config) - OPTIONS):
        return f"it is configured with {', '.join(unknown)}"
    nested = [
        (config.get("ssl") or {}, "enabled", "TLS"),
        (config.get("traffic") or {}, "external_queue", "an external queue"),
    ]
    for where, key, what in nested:
        if where.get(key):
            return f"it is configured with {what}"
    traffic = config.get("traffic") or {}
    for key, value in (("timeout", traffic.get("timeout")), ("max_concurrency", traffic.get("max_concurrency"))):
        if value is not None and not (isinstance(value, int | float) and value > 0):
            return f"its traffic.{key} is {value!r}"
    if not isinstance(config.get("threads") or 1, int):
        return f"its threads are {config['threads']!r}"
    for name, method in service.apis.items():
        if method.batchable:
            from . import batching

            if why := batching.refusal(method):
                return f"its method {name} is batchable and {why}"
        if "{" in method.route:
            return f"the route of {name} has parameters"
    return ""


def _used(tree: ast.AST) -> Iterator[str]:
    """The names of BentoML that a module uses, in full, and the attributes that only BentoML's instances have."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in OWNED:
                    yield alias.name
                    known[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
        elif (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.partition(".")[0] in OWNED
            and not node.level
        ):
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if node.attr in INSTANCE:
                yield node.attr
            if full := _full(node, known):
                yield full


def _full(node: ast.expr, known: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return known.get(node.id, "")
    if isinstance(node, ast.Attribute) and (above := _full(node.value, known)) in PARTS:
        return f"{above}.{node.attr}"
    return ""


def _offered(name: str) -> bool:
    if name in PARTS or name in ("bentoml.importing", "bentoml.__version__"):
        return True
    module, _, attribute = name.rpartition(".")
    return module == EXCEPTIONS or attribute in PARTS.get(module, ())
