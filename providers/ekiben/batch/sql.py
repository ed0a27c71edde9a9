"""Rows of a SQL query, streamed: by ADBC where there is a driver for the database, else by SQLAlchemy."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ekiben.batch.sources import Piece
from ekiben.errors import EkibenError, MissingDependency, ProviderError, SpecError

__all__ = ["Query"]

FETCH_ROWS = 16_384
READS = re.compile(r"\s*(?:--[^\n]*\n\s*|/\*.*?\*/\s*)*\(*\s*(select|with|values|table)\b", re.IGNORECASE | re.DOTALL)
# Scheme -> ADBC driver. A URI with a driver of its own (postgresql+psycopg://) is SQLAlchemy's.
DRIVERS = {"sqlite": "adbc_driver_sqlite", "postgresql": "adbc_driver_postgresql", "postgres": "adbc_driver_postgresql"}


class Query:
    """A query's rows. It must give the same rows in the same order each time: after an interruption it is run again."""

    def __init__(self, text: str, database: str) -> None:
        """Raises SpecError for a statement that does not only read, or a URI without a scheme."""
        if not READS.match(text):
            raise SpecError("The SQL must be one statement that reads: it begins with SELECT or WITH.")
        if "://" not in database:
            raise SpecError("--database must be a URI, such as sqlite:///data.db or postgresql://host/name.")
        self._text, self._database = text, database
        self._schema: Any = None

    def identity(self) -> dict[str, Any]:
        """The query and where it goes, without user, password and options."""
        place = re.sub(r"://[^/@]*@", "://", self._database.partition("?")[0])
        return {"sql_sha256": hashlib.sha256(self._text.encode()).hexdigest(), "database": place}

    def schemas(self) -> list[tuple[str, dict[str, Any]]]:
        """The columns, by the first rows. Raises SpecError, ProviderError."""
        if self._schema is None:
            with self._batches() as batches:
                first = next(batches, None)
                self._schema = None if first is None else first.schema
        if self._schema is None:
            raise SpecError("The query gives no columns.")
        names = self._schema.names
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise SpecError(f"The query gives the column {doubled[0]!r} twice. Rename one of them (AS).")
        return [("the query", dict(zip(names, self._schema.types, strict=True)))]

    def guessed(self, names: Sequence[str], nulls: Sequence[str]) -> dict[str, str]:
        return {}

    def total_rows(self) -> int | None:
        return None

    def fraction(self) -> float:
        return 0.0

    def read(self, types: Mapping[str, Any], skip: int) -> Iterator[Piece]:
        """The columns in `types` of all rows. `skip` is not for a query: what was read before is compared with what is now."""
        import numpy as np
        import pyarrow as pa

        end = 0
        with self._batches() as batches:
            for batch in batches:
                numbers = pa.array(np.arange(end + 1, end + 1 + batch.num_rows))
                end += batch.num_rows
                table = pa.table(batch.columns, names=batch.schema.names).select(list(types))
                yield Piece(table, numbers, [], False, end)

    @contextmanager
    def _batches(self) -> Iterator[Iterator[Any]]:
        """Arrow batches, the first of them perhaps without rows, so that columns are known."""
        scheme = self._database.partition("://")[0]
        driver = DRIVERS.get(scheme, "")
        try:
            if driver and importlib.util.find_spec("adbc_driver_manager") and importlib.util.find_spec(driver):
                with self._adbc(driver) as batches:
                    yield batches
            else:
                with self._sqlalchemy() as batches:
                    yield batches
        except (EkibenError, GeneratorExit):
            raise
        except Exception as error:
            why = " ".join(str(getattr(error, "orig", None) or error).split()).rstrip(".")[:300]
            why = re.sub(r"://[^/@\s]*@", "://", why)
            raise ProviderError(scheme, "read the rows of the query", why, "Check the query and --database") from error

    @contextmanager
    def _adbc(self, driver: str) -> Iterator[Iterator[Any]]:
        from adbc_driver_manager import dbapi

        uri, options = self._database, {}
        if driver == "adbc_driver_sqlite":
            uri = re.sub(r"^sqlite:///", "", uri)
            # The types of columns are those of the first rows: of more of them than the driver looks at by itself.
            options = {"adbc.sqlite.query.batch_rows": str(FETCH_ROWS)}
        path = importlib.import_module(driver)._driver_path()
        with (
            dbapi.connect(driver=path, db_kwargs={"uri": uri}, autocommit=True) as connection,
            connection.cursor(adbc_stmt_kwargs=options or None) as cursor,
        ):
            cursor.execute(self._text)
            reader = cursor.fetch_record_batch()
            yield itertools.chain([_empty(reader.schema)], reader)

    @contextmanager
    def _sqlalchemy(self) -> Iterator[Iterator[Any]]:
        if importlib.util.find_spec("sqlalchemy") is None:
            raise MissingDependency("sqlalchemy", "sql")
        import sqlalchemy

        engine = sqlalchemy.create_engine(self._database)
        try:
            with engine.connect().execution_options(stream_results=True, max_row_buffer=FETCH_ROWS) as connection:
                result = connection.execute(sqlalchemy.text(self._text.replace(":", "\\:")))
                yield _arrow(list(result.keys()), result.partitions(FETCH_ROWS))
        finally:
            engine.dispose()


def _empty(schema: Any) -> Any:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def _arrow(names: list[str], partitions: Iterator[Any]) -> Iterator[Any]:
    """Rows as Arrow, with the types of the first ones; a column that was empty or whole in these may widen."""
    import pyarrow as pa

    types: list[Any] = []
    for rows in partitions:
        columns = [pa.array(values) for values in zip(*rows, strict=True)]
        for i, column in enumerate(columns):
            if types and types[i] != column.type and not pa.types.is_null(types[i]):
                columns[i] = column.cast(types[i])
        types = [column.type for column in columns]
        yield pa.RecordBatch.from_arrays(columns, names=names)
    if not types:
        yield pa.RecordBatch.from_arrays([pa.nulls(0) for _ in names], names=names)
