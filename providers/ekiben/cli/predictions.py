"""predictions."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from ekiben.cli import options, show
from ekiben.cli.platform import runtime
from ekiben.records import LoggedPrediction

__all__ = ["register"]

SHOWN = 60


def register(app: typer.Typer) -> None:
    app.command()(predictions)


def predictions(
    name: Annotated[str, typer.Argument(metavar="ENDPOINT", help="An endpoint.")],
    last: Annotated[int, typer.Option("--last", min=1, max=10_000, help="How many, the newest first.")] = 20,
    source: Annotated[
        str,
        typer.Option("--from", metavar="URI", help="Of what `ekiben serve --log-predictions URI` has logged there."),
    ] = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Show the last predictions of an endpoint.

    Each with its revision, status, latency, request and answer, as the endpoint's log has them. With --json, whole.

    \b
    Examples:
      ekiben predictions employment-api
      ekiben predictions employment-api --last 1000 --json
      ekiben predictions employment --from s3://lake
    """
    rows = _logged(source, name, last) if source else runtime(stack).endpoint(name).predictions(last)
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


def _logged(uri: str, name: str, last: int) -> list[LoggedPrediction]:
    from ekiben.predictions import recent
    from ekiben.storage import open_storage

    return list(islice(recent(open_storage(uri if "://" in uri else Path(uri).resolve().as_uri()), name), last))


def _short(text: str, size_bytes: int) -> str:
    if not text:
        return "" if not size_bytes else "(streamed)" if size_bytes < 0 else f"({size_bytes} bytes)"
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
