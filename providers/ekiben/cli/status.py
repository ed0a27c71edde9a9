"""status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from ekiben.cli import options, show
from ekiben.cli.platform import runtime
from ekiben.errors import EkibenError, Unavailable

if TYPE_CHECKING:
    from ekiben.runtime import Runtime

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command()(status)


def status(json: options.Json = False, stack: options.Stack = "") -> None:
    """Show what the platform has, and how it is.

    Exits with 5 when a part does not answer.

    \b
    Examples:
      ekiben status
      ekiben status --stack production --json
    """
    used = runtime(stack)
    platform = used.platform
    parts = [_part(used, name) for name in sorted(platform.parts, key=lambda name: (platform.parts[name].kind, name))]
    if json:
        show.to_json({"project": platform.project, "stack": platform.stack, "parts": parts})
    else:
        show.line(f"{platform.project}/{platform.stack}")
        rows = [(part["name"], part["kind"], part["provider"], part["state"], part["detail"]) for part in parts]
        show.table(("component", "kind", "provider", "state", "detail"), rows, "The platform has no components.")
    if lost := [part for part in parts if part["state"] == "fail"]:
        raise Unavailable(
            "ekiben", f"reach {', '.join(part['name'] for part in lost)}", lost[0]["error"].rstrip("."),
            "See `ekiben doctor`",
        )  # fmt: skip


def _part(used: Runtime, name: str) -> dict[str, Any]:
    part = used.platform.parts[name]
    entry = {"name": name, "kind": part.kind, "provider": part.provider, "ref": part.ref, "error": ""}
    try:
        state, detail, facts = _KINDS[part.kind](used, name)
    except EkibenError as error:
        return {**entry, "state": "fail", "detail": "does not answer", "facts": {}, "error": str(error)}
    return {**entry, "state": state, "detail": detail, "facts": facts}


def _storage(used: Runtime, name: str) -> tuple[str, str, dict[str, Any]]:
    storage = used.storage(name)
    next(iter(storage.list()), None)
    return "ok", storage.uri(), {"uri": storage.uri()}


def _registry(used: Runtime, name: str) -> tuple[str, str, dict[str, Any]]:
    versions = used.registry(name).versions()
    pending = sum(version.state == "pending" for version in versions)
    detail = f"{len(versions)} versions" + (f", {pending} pending" if pending else "")
    return "ok", detail, {"versions": len(versions), "pending": pending}


def _training(used: Runtime, name: str) -> tuple[str, str, dict[str, Any]]:
    runs = used.training(name).runs()
    active = sum(not run.ended for run in runs)
    detail = f"{len(runs)} runs" + (f", the last {runs[0].state}" if runs else "")
    return ("running" if active else "ok"), detail, {"runs": len(runs), "active": active}


def _endpoint(used: Runtime, name: str) -> tuple[str, str, dict[str, Any]]:
    endpoint = used.endpoint(name)
    url = endpoint.url
    serving = {revision.version: revision.weight for revision in endpoint.revisions() if revision.weight}
    shares = ", ".join(f"{version} {weight:g} %" for version, weight in serving.items())
    return ("ready" if serving else "pending"), f"{shares or 'no model yet'}, {url}", {"url": url, "serving": serving}


def _function(used: Runtime, name: str) -> tuple[str, str, dict[str, Any]]:
    deliveries = used.function(name).deliveries()
    dead = sum(delivery["state"] == "dead" for delivery in deliveries)
    detail = f"{len(deliveries)} deliveries" + (f", {dead} dead letters" if dead else "")
    return ("warn" if dead else "ok"), detail, {"deliveries": len(deliveries), "dead": dead}


_KINDS = {
    "storage": _storage,
    "registry": _registry,
    "training": _training,
    "endpoint": _endpoint,
    "function": _function,
}
