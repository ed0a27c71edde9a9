"""Rows of a query: by ADBC and by SQLAlchemy, streamed, resumed, and refused when they are other rows."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ekiben.batch.sources import regrouped
from ekiben.batch.sql import Query
from ekiben.errors import ProviderError, SpecError

from .conftest import lines

SQL = "select id, x, größe as größe, note from people order by id"


@pytest.fixture
def database(tmp_path) -> Path:
    path = tmp_path / "people é.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table people (id text, x real, größe real, note text)")
        rows = [(f"{i:06d}", i / 1, 0.5, "ü" if i % 2 else None) for i in range(40_000)]
        connection.executemany("insert into people values (?, ?, ?, ?)", rows)
    return path


def uri(database: Path, way: str) -> str:
    return f"sqlite:///{database}" if way == "adbc" else f"sqlite+pysqlite:///{database}"


@pytest.mark.parametrize("way", ["adbc", "sqlalchemy"])
def test_rows_of_a_query(database, way) -> None:
    query = Query(SQL, uri(database, way))
    ((_, schema),) = query.schemas()
    assert {name: str(type) for name, type in schema.items()} == {
        "id": "string", "x": "double", "größe": "double", "note": "string",
    }  # fmt: skip
    pieces = list(regrouped(query.read({"note": None, "id": None, "x": None}, 0), 15_000))
    assert [piece.table.num_rows for piece in pieces] == [15_000, 15_000, 10_000]
    assert pieces[2].table.slice(9_999).to_pylist() == [{"note": "ü", "id": "039999", "x": 39_999.0}]
    assert pieces[2].numbers[9_999].as_py() == 40_000


@pytest.mark.parametrize("way", ["adbc", "sqlalchemy"])
def test_a_query_is_resumed_and_refused_when_it_gives_other_rows(batch, database, way) -> None:
    def stop(rows: int, failed: int) -> None:
        if rows >= 20_000:
            raise KeyboardInterrupt

    options = {"keys": ("id",), "route": "matrix", "batch_rows": 10_000, "save_every_s": 0}
    with pytest.raises(KeyboardInterrupt):
        batch(Query(SQL, uri(database, way)), advance=stop, **options)
    with sqlite3.connect(database) as connection:
        connection.execute("update people set x = x + 1 where id = '000007'")
    with pytest.raises(SpecError, match="does not give the rows that it gave before.*ORDER BY"):
        batch(Query(SQL, uri(database, way)), **options)
    with sqlite3.connect(database) as connection:
        connection.execute("update people set x = x - 1 where id = '000007'")
        connection.execute("delete from people where id > '000009'")
    with pytest.raises(SpecError, match="does not give the rows"):
        batch(Query(SQL, uri(database, way)), **options)
    with sqlite3.connect(database) as connection:
        rows = [(f"{i:06d}", i / 1, 0.5, "ü" if i % 2 else None) for i in range(10, 40_000)]
        connection.executemany("insert into people values (?, ?, ?, ?)", rows)
    summary = batch(Query(SQL, uri(database, way)), "out.parquet", **options)
    assert (summary["rows"], summary["resumed_rows"]) == (40_000, 20_000)
    assert pq.read_table(database.parent / "out.parquet")["prediction"].to_pylist() == [
        2.0 * i + 0.5 for i in range(40_000)
    ]


@pytest.mark.parametrize("way", ["adbc", "sqlalchemy"])
def test_a_query_without_rows_or_with_a_mistake(batch, database, way) -> None:
    summary = batch(Query("select x, größe from people where 1 = 0", uri(database, way)), route="matrix")
    assert summary["rows"] == 0
    with pytest.raises(ProviderError, match=r"cannot read the rows of the query: .*no such table: nobody"):
        batch(Query("select * from nobody", uri(database, way)), "other.parquet")
    with pytest.raises(SpecError, match="the column 'x' twice"):
        batch(Query("select x, x from people", uri(database, way)), "other.parquet")


def test_bad_rows_of_a_query_fail_alone(batch, database) -> None:
    sql = "select id, case id when '000001' then null else x end as x from people where id < '000003' order by id"
    summary = batch(Query(sql, uri(database, "sqlalchemy")), "out.jsonl", keys=("id",))
    assert summary["failed"] == 1
    assert lines(database.parent / "out.jsonl.errors.jsonl")[0]["key"] == {"id": "000001"}


@pytest.mark.parametrize(
    "text", ["delete from people", "drop table people", "", "update people set x = 1", "pragma user_version"]
)
def test_only_what_reads_is_run(database, text) -> None:
    with pytest.raises(SpecError, match="begins with SELECT or WITH"):
        Query(text, uri(database, "adbc"))


def test_what_reads_may_begin_with_a_comment(database) -> None:
    query = Query("-- all of them\n/* each */ with p as (select x from people) select * from p", uri(database, "adbc"))
    assert list(query.schemas()[0][1]) == ["x"]


def test_a_password_is_neither_kept_nor_said() -> None:
    query = Query("select 1", "postgresql+nothing://ana:s3cret@db.example/shop?password=s3cret")
    assert "s3cret" not in json.dumps(query.identity())
    assert query.identity()["database"] == "postgresql+nothing://db.example/shop"
    with pytest.raises(ProviderError) as caught:
        query.schemas()
    assert "s3cret" not in str(caught.value)
