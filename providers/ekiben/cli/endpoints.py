"""endpoints, invoke."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ekiben.cli import options, show
from ekiben.cli.platform import runtime
from ekiben.errors import SpecError

__all__ = ["payload", "register"]

Data = Annotated[str, typer.Option("--data", "-d", help="JSON, @FILE, or - for standard input.")]


def register(app: typer.Typer) -> None:
    app.command()(endpoints)
    app.command()(invoke)


def endpoints(
    name: Annotated[str, typer.Argument(metavar="ENDPOINT", help="An endpoint; else all.")] = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Show endpoints and their revisions.

    Each revision with its weight, state, instances, requests, errors and latency.

    \b
    Examples:
      ekiben endpoints
      ekiben endpoints employment-api --json
    """
    used = runtime(stack)
    found: list[dict[str, Any]] = []
    for endpoint in [name] if name else used.names("endpoint"):
        bound = used.endpoint(endpoint)
        metrics = {entry.revision: entry for entry in bound.metrics()}
        revisions = [{**r.to_dict(), "metrics": metrics.get(r.id)} for r in bound.revisions()]
        found.append({"name": endpoint, "url": str(bound.part.facts.get("url", "")), "revisions": revisions})
    if json:
        show.to_json(found)
        return
    if not found:
        show.say("The platform has no endpoints.")
    columns = ("revision", "version", "weight", "state", "tag", "instances", "requests", "errors", "p50 ms", "p95 ms")
    for at, entry in enumerate(found):
        if at:
            show.line()
        show.line(f"{entry['name']}  {entry['url']}")
        rows = [_row(revision) for revision in entry["revisions"]]
        show.table(columns, rows, "It has no revision yet. Release a model with: ekiben release MODEL")


def invoke(
    name: Annotated[
        str, typer.Argument(metavar="ENDPOINT|FUNCTION", help="An endpoint, or a function that HTTP starts.")
    ],
    data: Data,
    route: Annotated[str, typer.Option("--route", help="The route of the model's service.")] = "predict",
    revision: Annotated[str, typer.Option("--revision", help="A revision's id or tag, instead of the weights.")] = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Call an endpoint and print its answer.

    With --json, the whole record: revision, latency, whether the request was held, and the answer.

    \b
    Examples:
      ekiben invoke employment-api --data '{"person": {"AGEP": 40}}'
      ekiben invoke employment-api --data @request.json --json
      ekiben invoke employment-api --data - --revision candidate
    """
    used = runtime(stack)
    body = payload(data)
    if name in used.names("function"):
        if not isinstance(body, dict):
            raise SpecError(f"A function takes a JSON object, not {type(body).__name__}. Wrap it: " + '{"data": ...}.')
        show.to_json(used.function(name).call(body))
        return
    prediction = used.endpoint(name).invoke(body, route=route, revision=revision)
    show.to_json(prediction if json else prediction.body)
    cold = ", held while an instance started" if prediction.cold else ""
    show.say(f"revision {prediction.revision}, {prediction.latency_ms:.1f} ms{cold}")


def payload(text: str) -> Any:
    """The JSON of --data: the text itself, a file's, or standard input's. Raises SpecError, with the place of the mistake."""
    where, raw = "--data", text
    if text == "-":
        where, raw = "standard input", sys.stdin.read()
    elif text.startswith("@"):
        where = text[1:]
        try:
            raw = Path(where).read_text(encoding="utf-8")
        except OSError as error:
            raise SpecError(f"--data {text!r}: the file cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise SpecError(f"--data {text!r}: the file is not UTF-8. Save it as UTF-8.") from error

    def refuse(constant: str) -> Any:
        raise SpecError(f"{where} holds {constant}, which JSON does not have. Use null, or a number.")

    try:
        value = jsonlib.loads(raw, parse_constant=refuse)
        raw.encode("utf-8")
    except SpecError:
        raise
    except jsonlib.JSONDecodeError as error:
        raise SpecError(f"{where} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}.") from error
    except (UnicodeEncodeError, RecursionError) as error:
        raise SpecError(f"{where} is not JSON: it is not UTF-8, or nested too deeply.") from error
    return value


def _row(revision: dict[str, Any]) -> tuple[Any, ...]:
    metrics = revision["metrics"]
    counts = (
        (metrics.requests, metrics.errors, show.number(metrics.p50_ms), show.number(metrics.p95_ms))
        if metrics
        else ("",) * 4
    )
    return (
        revision["id"], revision["version"], f"{revision['weight']:g} %", revision["state"], revision["tag"],
        revision["instances"], *counts,
    )  # fmt: skip
