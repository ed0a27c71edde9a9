"""The station's state: one SQLite file in WAL mode, short transactions, rows as dicts.

Each noun declares its own tables by `declare`. SQLite is called from the event loop's thread and from worker threads alike: each
thread has its own connection, and writers queue for `busy_timeout`. The event loop reads by itself, and writes by `in_turn`: a
disk that is slow must not hold up those who want nothing of it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ekiben.errors import NoCapacity, ProviderError, Unavailable

__all__ = ["Store"]

T = TypeVar("T")

# Of pages, for each thread's connection; the operating system keeps the file in memory, too.
CACHE_KIB = 256
BUSY_TIMEOUT_MS = 10_000


class Store:
    """A SQLite file. `synchronous=FULL`: what a committed transaction wrote survives a power cut.

    A write raises NoCapacity when the disk is full, and Unavailable when another writer holds the file for too long.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")

    def declare(self, ddl: str) -> None:
        """Run `create table if not exists ...` statements."""
        self._connection.executescript(ddl)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; the write lock is taken at the start, so that what is read inside stays true until the commit."""
        connection = self._connection
        if connection.in_transaction:
            yield connection
            return
        with _translated():
            connection.execute("begin immediate")
            try:
                self._local.later = []
                yield connection
                connection.execute("commit")
            finally:
                # A full disk may have rolled it back already, or have left it open at the commit.
                if connection.in_transaction:
                    connection.execute("rollback")
        for call in self._local.later:
            call()

    async def in_turn(self, write: Callable[..., T], *values: object) -> T:
        """Do a write in the one thread for writes, after those that came before; the event loop goes on meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, write, *values)

    def after_commit(self, call: Callable[[], object]) -> None:
        """Call it when others can see what this thread has written: at once, or once the transaction that is open is committed."""
        if self._connection.in_transaction:
            self._local.later.append(call)
        else:
            call()

    def all(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        return [dict(row) for row in self._connection.execute(sql, values)]

    def one(self, sql: str, values: Sequence[Any] = ()) -> dict[str, Any] | None:
        row = self._connection.execute(sql, values).fetchone()
        return None if row is None else dict(row)

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Execute one statement in its own transaction (or the one that is open); returns the number of rows it changed."""
        with self.transaction() as connection:
            return connection.execute(sql, values).rowcount

    def close(self) -> None:
        self._writer.shutdown(cancel_futures=True)
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    @property
    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.execute(f"pragma busy_timeout = {BUSY_TIMEOUT_MS}")
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = full")
            connection.execute("pragma foreign_keys = on")
            connection.execute(f"pragma cache_size = -{CACHE_KIB}")
            self._local.connection = connection
        return connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        operation, code = "write the station's state", error.sqlite_errorcode & 0xFF
        if code == sqlite3.SQLITE_FULL:
            why, remedy = "the disk or the quota is full", "Make room, then repeat"
            raise NoCapacity("local", operation, why, remedy) from error
        if code == sqlite3.SQLITE_BUSY:
            why, remedy = f"another writer has held it for {BUSY_TIMEOUT_MS / 1000:g} s", "Try again later"
            raise Unavailable("local", operation, why, remedy) from error
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise ProviderError("local", operation, str(error), "Look at its disk") from error
        raise
