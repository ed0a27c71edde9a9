"""`ekiben invoke` on files and SQL queries: what the options mean, and how far it has come."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from ekiben.cli import show
from ekiben.cli.platform import runtime
from ekiben.errors import MissingDependency, SpecError

__all__ = ["Options", "invoke_batch"]

SAY_EVERY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `ekiben invoke` for files and queries, as they were given."""

    input: Sequence[str]
    output: str
    sql: str
    database: str
    key: Sequence[str]
    route: str
    revision: str
    registry: str
    null: Sequence[str]
    delimiter: str
    batch_rows: int
    workers: int
    timeout_s: float
    save_every_s: float
    strict: bool
    overwrite: bool
    restart: bool


def invoke_batch(name: str, options: Options, *, json: bool, stack: str) -> None:
    """Predict for all rows of the input and print where they are, or, with `json`, the summary."""
    for package in ("pyarrow", "numpy"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependency(package, "data")
    if bool(options.input) == bool(options.sql):
        raise typer.BadParameter("Say what to predict for with --input or with --sql, not both.")
    if not options.output:
        raise typer.BadParameter("Say where the predictions go: --output predictions.parquet.")
    if options.sql and not options.database:
        raise typer.BadParameter(
            "--sql needs --database URI (or EKIBEN_DATABASE): sqlite:///data.db, postgresql://host/name."
        )
    delimiter = {"\\t": "\t", "tab": "\t"}.get(options.delimiter, options.delimiter)
    if len(delimiter) > 1:
        raise SpecError(f"--delimiter {options.delimiter!r} is not one character (or tab).")
    from ekiben.batch import models, places, run, sources, sql

    used = runtime(stack)
    model = models.chosen(used, name, revision=options.revision, registry=options.registry)
    output = places.resolved(options.output, used)
    places.split(str(output))
    source: run.Source
    if options.sql:
        source = sql.Query(_text(options.sql), options.database)
    else:
        source = sources.Files(places.found(options.input, used), delimiter=delimiter)
    with _meter(name, source) as advance:
        summary = run.run(
            run.Batch(
                model=model, source=source, output=output, keys=tuple(options.key), route=options.route,
                nulls=tuple(options.null), batch_rows=options.batch_rows, workers=options.workers,
                timeout_s=options.timeout_s, save_every_s=options.save_every_s, strict=options.strict,
                overwrite=options.overwrite, restart=options.restart, advance=advance,
            )
        )  # fmt: skip
    if json:
        show.to_json(summary)
    else:
        show.line(summary["output"])
    again = f" ({summary['resumed_rows']:,} of them before)" if summary["resumed_rows"] else ""
    show.say(f"{summary['predicted']:,} predictions of {summary['model']}{again} in {summary['seconds']:.1f} s")
    if summary["failed"]:
        show.say(f"{summary['failed']:,} rows have none; why is in {summary['errors']}")


def _text(sql: str) -> str:
    if not sql.startswith("@"):
        return sql
    try:
        return Path(sql[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"--sql {sql!r}: the file cannot be read: {error}.") from error


@contextmanager
def _meter(label: str, source: Any) -> Iterator[Callable[[int, int], None]]:
    """A bar with rows, rows a second and the time left, on a terminal; elsewhere a line now and then."""
    first: list[tuple[float, int]] = []

    def told(rows: int, failed: int) -> str:
        now = time.monotonic()
        if not first:
            first.append((now, rows))
        rate = (rows - first[0][1]) / max(now - first[0][0], 1e-3)
        return f"{rows:,} rows, {rate:,.0f} rows/s" + (f", {failed:,} failed" if failed else "")

    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        total = source.total_rows()
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[told]}", markup=False),
        )
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total or 1.0, told="")
            yield lambda rows, failed: bar.update(
                task, completed=rows if total else source.fraction(), told=told(rows, failed)
            )
        return
    said = time.monotonic()

    def line(rows: int, failed: int) -> None:
        nonlocal said
        text = told(rows, failed)
        if time.monotonic() - said >= SAY_EVERY_S:
            said = time.monotonic()
            share = source.fraction()
            show.say(f"{label}: {text}" + (f", {share:.0%} read" if share else ""))

    yield line
