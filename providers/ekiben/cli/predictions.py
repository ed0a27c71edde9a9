"""predictions."""

from __future__ import annotations

from typing import Annotated

import typer

from ekiben.cli import options, show
from ekiben.cli.platform import runtime

__all__ = ["register"]

SHOWN = 60


def register(app: typer.Typer) -> None:
    app.command()(predictions)


def predictions(
    name: Annotated[str, typer.Argument(metavar="ENDPOINT", help="An endpoint.")],
    last: Annotated[int, typer.Option("--last", min=1, max=10_000, help="How many, the newest first.")] = 20,
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Show the last predictions of an endpoint.

    Each with its revision, status, latency, request and answer, as the endpoint's log has them. With --json, whole.

    \b
    Examples:
      ekiben predictions employment-api
      ekiben predictions employment-api --last 1000 --json
    """
    rows = runtime(stack).endpoint(name).predictions(last)
    if json:
        show.to_json(rows)
        return
    show.table(
        ("time", "version", "revision", "status", "ms", "route", "request", "answer"),
        [
            (
                show.clock(row.time), row.model_version, row.revision, row.status, f"{row.latency_ms:.1f}", row.route,
                _short(row.request, row.request_bytes), _short(row.response, row.response_bytes),
            )
            for row in rows
        ],
        "It has no predictions yet, or none are logged (EndpointSpec.log_predictions). Call it with: ekiben invoke ENDPOINT",
    )  # fmt: skip


def _short(text: str, size_bytes: int) -> str:
    if not text:
        return "" if not size_bytes else "(streamed)" if size_bytes < 0 else f"({size_bytes} bytes)"
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
