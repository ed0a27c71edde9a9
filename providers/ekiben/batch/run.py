"""A batch from its input to its output: read, predict in order, keep what is finished, write, deliver."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ekiben.batch.conform import NULLS, arrow_type, problems
from ekiben.batch.frames import answer_schema
from ekiben.batch.journal import Journal
from ekiben.batch.models import Model, cores, made_ready
from ekiben.batch.output import ROW, Output
from ekiben.batch.places import split
from ekiben.batch.predict import Predicted, predicted
from ekiben.batch.route import Column, Route, batch_route
from ekiben.batch.sources import Piece, regrouped
from ekiben.batch.workers import Crew
from ekiben.errors import SpecError
from ekiben.folder import system_error

__all__ = ["Batch", "Source", "run"]

SHOWN_PROBLEMS = 50


class Source(Protocol):
    """Files or a query: see sources.Files."""

    def identity(self) -> dict[str, Any]: ...
    def schemas(self) -> list[tuple[str, dict[str, Any]]]: ...
    def guessed(self, names: list[str], nulls: tuple[str, ...]) -> dict[str, str]: ...
    def total_rows(self) -> int | None: ...
    def fraction(self) -> float: ...
    def read(self, types: Mapping[str, Any], skip: int) -> Iterator[Piece]: ...


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What is asked for. `output` is a local path or a URI; the rest is as the options of `ekiben invoke`.

    `advance(rows, failed)` is told how far the output has come.
    """

    model: Model
    source: Source
    output: Path | str
    keys: tuple[str, ...] = ()
    route: str = ""
    nulls: tuple[str, ...] = ()
    batch_rows: int = 0
    workers: int = 0
    timeout_s: float = 600.0
    save_every_s: float = 10.0
    strict: bool = False
    overwrite: bool = False
    restart: bool = False
    advance: Callable[[int, int], None] = field(default=lambda rows, failed: None)


def run(batch: Batch) -> dict[str, Any]:
    """Predict for every row of the input; returns the summary that the command prints with --json.

    Raises SpecError for what does not fit, before the first batch; ModelFailed; ProviderError when something cannot be read or
    written. What was finished until then is kept, and the same call goes on after it.
    """
    begun = time.monotonic()
    form = split(str(batch.output))
    plan = made_ready(batch.model)
    route, keys = _fitting(batch, batch_route(plan.bento, batch.model.signature, batch.route))
    rows = min(batch.batch_rows or route.max_rows, route.max_rows)
    binding = {
        "schema": 1, "input": batch.source.identity(), "model": {"ref": batch.model.ref, "digest": batch.model.digest},
        "route": route.name, "keys": list(keys), "nulls": sorted(batch.nulls), "batch_rows": rows, "output": list(form),
    }  # fmt: skip
    journal = Journal(batch.output)
    try:
        done = journal.begin(binding, restart=batch.restart, overwrite=batch.overwrite)
        output = Output(journal, form, route, keys, strict=batch.strict, save_every_s=batch.save_every_s)
        with output, ExitStack() as stack:
            for key in done:
                output.replay(journal.load(key))
            resumed = output.end
            batch.advance(output.end, output.failed)
            types = _types(batch.source, route, keys)
            pieces = stack.enter_context(closing(_unseen(batch.source, types, rows, output.end, output.seen)))
            count = batch.workers or cores()
            crew = Crew(plan, route.name, count, timeout_s=batch.timeout_s)
            for result, seen in _predictions(stack, crew, count, route, pieces, (*NULLS, *batch.nulls)):
                output.add(result, seen)
                batch.advance(output.end, output.failed)
            output.finish()
        journal.deliver(output.staged, output.errors if output.failed else None, overwrite=batch.overwrite)
    except OSError as error:
        raise system_error("ekiben", f"write {str(batch.output)!r}", error) from error
    finally:
        journal.close()
    return {
        "rows": output.end, "predicted": output.predicted, "failed": output.failed, "resumed_rows": resumed,
        "model": batch.model.ref, "digest": batch.model.digest, "route": route.name, "output": str(batch.output),
        "errors": str(journal.errors_place) if output.failed else "", "seconds": round(time.monotonic() - begun, 3),
        "start_seconds": round(crew.start_s, 3),
    }  # fmt: skip


def _fitting(batch: Batch, route: Route) -> tuple[Route, dict[str, Any]]:
    """The route with its columns, and the keys with their Arrow types. Raises SpecError with all that does not fit, at once."""
    import pyarrow as pa

    schemas = batch.source.schemas()
    first = schemas[0][1]
    keys = tuple(first) if batch.keys == ("*",) else batch.keys
    if not route.columns:
        route = replace(route, columns=tuple(Column(name, nullable=True) for name in first if name not in keys))
    found = [problem for where, there in schemas for problem in problems(route, keys, there, where)]
    found += [f"the key {key!r} is named twice" for key in sorted({key for key in keys if keys.count(key) > 1})]
    found += [] if route.columns else ["there is no column for the model"]
    for where, there in schemas[1:]:
        for key in keys:
            if key in there and key in first and there[key] != first[key]:
                found.append(f"{where}: the key {key!r} is {there[key]}, and {first[key]} in the first file")
    answers = answer_schema(route).names if route.kind == "rows" else []
    found += [
        f"the key {name!r} is a column of the model's answer, too" for name in answers if name in (keys or (ROW,))
    ]
    if found:
        shown = found[:SHOWN_PROBLEMS] + (
            [f"and {len(found) - SHOWN_PROBLEMS} more"] if len(found) > SHOWN_PROBLEMS else []
        )
        raise SpecError(
            f"The input does not fit the route {route.name!r} of {batch.model.ref}:\n  " + "\n  ".join(shown)
        )
    if route.kind == "frame" and (texts := [c.name for c in route.columns if not c.type and first[c.name] is None]):
        types = batch.source.guessed(texts, (*NULLS, *batch.nulls))
        typed = (replace(column, type=column.type or types.get(column.name, "")) for column in route.columns)
        route = replace(route, columns=tuple(typed))
    return route, {key: _key_type(first[key]) for key in keys} or {ROW: pa.int64()}


def _key_type(type: Any) -> Any:
    import pyarrow as pa

    if type is None or pa.types.is_null(type):
        return pa.string()
    return type.value_type if pa.types.is_dictionary(type) else type


def _types(source: Source, route: Route, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The columns to read, with the Arrow types that are wanted (None: as they are)."""
    there = {name for _, schema in source.schemas() for name in schema}
    wanted = {column.name: arrow_type(column.type) for column in route.columns if column.name in there}
    return {**dict.fromkeys((key for key in keys if key in there), None), **wanted}


def _unseen(
    source: Source, types: Mapping[str, Any], rows: int, done: int, seen: str
) -> Generator[tuple[Piece, str], None, None]:
    """The input after the row number `done`, in pieces of `rows`, each with a digest of all the input up to its end.

    Files have a digest of their own, and the piece's is empty. What a query gave before is read again, and compared: SpecError.
    """
    hashed, at = hashlib.sha256(), 0
    by_itself = "files" in source.identity()
    other = SpecError(
        "The query does not give the rows that it gave before. Give it an ORDER BY, or begin again with --restart."
    )
    with closing(regrouped(source.read(types, done), rows)) as pieces:
        for piece in pieces:
            if by_itself:
                if piece.table.num_rows or piece.bad:
                    yield piece, ""
                continue
            for part in piece.table.combine_chunks().to_batches():
                hashed.update(part.serialize())
            digest, at = hashed.hexdigest(), piece.end
            if at > done:
                yield piece, digest
            elif done and at == done and digest != seen:
                raise other
    if not by_itself and at < done:
        raise other


def _predictions(
    stack: ExitStack, crew: Crew, count: int, route: Route, pieces: Iterator[tuple[Piece, str]], nulls: tuple[str, ...]
) -> Iterator[tuple[Predicted, str]]:
    """The pieces with their predictions, in order. The workers are started when there is something for them."""
    waiting: deque[tuple[Future[Predicted], str]] = deque()
    pool: ThreadPoolExecutor | None = None
    for piece, seen in pieces:
        if pool is None:
            stack.enter_context(crew)
            pool = ThreadPoolExecutor(count)
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        waiting.append((pool.submit(predicted, crew, route, piece, nulls), seen))
        while waiting and (waiting[0][0].done() or len(waiting) > 2 * count):
            ready, digest = waiting.popleft()
            yield ready.result(), digest
    for ready, digest in waiting:
        yield ready.result(), digest
