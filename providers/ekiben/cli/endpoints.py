"""endpoints, invoke."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ekiben.cli import batch, options, show
from ekiben.cli.platform import runtime
from ekiben.errors import SpecError

__all__ = ["payload", "register"]

Data = Annotated[str | None, typer.Option("--data", "-d", help="JSON, @FILE, or - for standard input.")]


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
        found.append({"name": endpoint, "url": bound.url, "revisions": revisions})
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
        str,
        typer.Argument(
            metavar="ENDPOINT|FUNCTION|MODEL",
            help="An endpoint, a function that HTTP starts, or MODEL:3, MODEL@ALIAS for files.",
        ),
    ],
    data: Data = None,
    route: Annotated[
        str,
        typer.Option("--route", help="The route of the model's service; else predict, or the only one for batches."),
    ] = "",
    revision: Annotated[str, typer.Option("--revision", help="A revision's id or tag, instead of the weights.")] = "",
    input: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="Files: a path, a glob, STORAGE/KEY, STORAGE/PREFIX/ or a URI. Repeatable."),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", help="Where predictions go: .parquet, .csv, .jsonl or .orc.")
    ] = "",
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key", "-k", help="A column of the input to put beside the predictions; '*' for all. Repeatable."
        ),
    ] = None,
    sql: Annotated[str, typer.Option("--sql", help="A query instead of files, or @FILE that holds one.")] = "",
    database: Annotated[
        str, typer.Option("--database", envvar="EKIBEN_DATABASE", help="The database of --sql, as a URI.")
    ] = "",
    null: Annotated[
        list[str] | None, typer.Option("--null", help="A text in CSV that stands for no value. Repeatable.")
    ] = None,
    delimiter: Annotated[str, typer.Option("--delimiter", help="Of CSV; else a comma, and a tab in .tsv.")] = "",
    batch_rows: Annotated[
        int, typer.Option("--batch-rows", min=0, help="Rows in one call; 0: what suits the route.")
    ] = 0,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that predict; 0: one a core.")] = 0,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=0.1, help="The longest that one batch may take.")
    ] = 600.0,
    save_every_s: Annotated[
        float,
        typer.Option("--save-every-s", min=0.0, help="How often finished rows are kept, for a run that is resumed."),
    ] = 10.0,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that fails.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over the output.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what an interrupted run had finished.")] = False,
    registry: options.Registry = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Call an endpoint and print its answer, or predict for all rows of files or a query.

    With --data, one request to the endpoint, or to a function; --json prints the whole record. With --input or --sql, the
    endpoint's model runs here, on all cores, and the predictions go to --output. After an interruption the same command goes on
    where it stopped. Rows that fail are listed in OUTPUT.errors.jsonl.

    \b
    Examples:
      ekiben invoke employment-api --data '{"person": {"AGEP": 40}}'
      ekiben invoke employment-api --data @request.json --json
      ekiben invoke employment-api --data - --revision candidate
      ekiben invoke employment-api --input lake/people/ --output lake/scored.parquet --key id
      ekiben invoke employment@champion --input 'people-*.csv.gz' --output scored.csv --key id
      ekiben invoke employment:3 --sql 'select * from people order by id' --database sqlite:///p.db --output scored.csv
    """
    if input or sql or output:
        if data is not None:
            raise typer.BadParameter("--data is one request; --input and --sql are many rows. Use one of them.")
        batch.invoke_batch(
            name,
            batch.Options(
                input=input or [], output=output, sql=sql, database=database, key=key or [], route=route, revision=revision,
                registry=registry, null=null or [], delimiter=delimiter, batch_rows=batch_rows, workers=workers,
                timeout_s=timeout_s, save_every_s=save_every_s, strict=strict, overwrite=overwrite, restart=restart,
            ),
            json=json,
            stack=stack,
        )  # fmt: skip
        return
    if data is None:
        raise typer.BadParameter(
            "Say what to predict for: --data JSON for one request, --input FILES or --sql QUERY for many rows."
        )
    used = runtime(stack)
    body = payload(data)
    if name in used.names("function"):
        if not isinstance(body, dict):
            raise SpecError(f"A function takes a JSON object, not {type(body).__name__}. Wrap it: " + '{"data": ...}.')
        show.to_json(used.function(name).call(body))
        return
    prediction = used.endpoint(name).invoke(body, route=route or "predict", revision=revision)
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
