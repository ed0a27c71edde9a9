"""Whatever is in a table comes back as it was: through every format, in any pieces, from any row on."""

from __future__ import annotations

import datetime
import decimal
import io
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.orc
import pyarrow.parquet as pq
from hypothesis import given, settings, strategies as st

from ekiben.batch import sinks, wire
from ekiben.batch.conform import NULLS, conformed
from ekiben.batch.frames import encoded
from ekiben.batch.journal import Journal, Part
from ekiben.batch.places import found, split
from ekiben.batch.route import Column, Route
from ekiben.batch.sinks import sink
from ekiben.batch.sources import Files, regrouped

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)
COLUMNS = {
    "whole": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "größe": (pa.float64(), st.floats(allow_nan=False, allow_infinity=False)),
    'te"xt, ': (pa.string(), TEXT),
    "yes": (pa.bool_(), st.booleans()),
    "day": (pa.date32(), st.dates(datetime.date(1900, 1, 1))),
    "price": (pa.decimal128(12, 2), st.decimals(-(10**9), 10**9, places=2)),
}


@st.composite
def tables(draw: st.DrawFn, columns: tuple[str, ...] = tuple(COLUMNS)) -> pa.Table:
    rows = draw(st.integers(1, 40))
    made = {}
    for name in columns:
        kind, values = COLUMNS[name]
        made[name] = pa.array(draw(st.lists(st.none() | values, min_size=rows, max_size=rows)), kind)
    return pa.table(made)


@given(table=tables(), size=st.integers(1, 50), skip=st.integers(0, 45), name=st.sampled_from(["t.parquet", "t.orc"]))
def test_tables_come_back_from_files_with_types(table: pa.Table, size: int, skip: int, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        with sink(path, *split(name), table.schema) as write:
            write(table)
        pieces = list(regrouped(Files(found([str(path)], None)).read(dict.fromkeys(table.column_names), skip), size))
    rows = [row for piece in pieces for row in piece.table.to_pylist()]
    assert rows == table.slice(skip).to_pylist()
    assert [n for piece in pieces for n in piece.numbers.to_pylist()] == list(range(skip + 1, table.num_rows + 1))
    assert all(piece.table.num_rows == size for piece in pieces[:-1])


@given(
    table=tables(('te"xt, ', "whole", "größe", "yes")),
    size=st.integers(1, 50),
    packed=st.sampled_from(["", ".gz", ".xz", ".zst"]),
)
@settings(max_examples=50)
def test_text_comes_back_from_csv_and_becomes_what_it_was(table: pa.Table, size: int, packed: str) -> None:
    filled = table.set_column(0, "text", table.column(0).fill_null(""))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t.csv{packed}"
        with sink(path, *split(path.name), filled.schema) as write:
            write(filled)
        pieces = list(regrouped(Files(found([str(path)], None)).read(dict.fromkeys(filled.column_names), 0), size))
    columns = (
        Column("text", "string"),
        Column("whole", "integer"),
        Column("größe", "number"),
        Column("yes", "boolean"),
    )
    route = Route("all", "rows", columns, size)
    at = 0
    for piece in pieces:
        made, bad = conformed(route, piece.table, NULLS, piece.texts)
        assert not bad
        expected = filled.slice(at, piece.table.num_rows).to_pydict()
        assert {name: array.to_pylist() for name, array in made.items()} == expected
        at += piece.table.num_rows
    assert at == table.num_rows


@given(
    table=tables(),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    name=st.sampled_from(["t.parquet", "t.csv", "t.jsonl.zst"]),
)
def test_the_bytes_do_not_depend_on_the_pieces(table: pa.Table, cuts: list[int], name: str) -> None:
    edges = [0, *sorted(min(cut, table.num_rows) for cut in cuts), table.num_rows]
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for at, pieces in enumerate(([table], [table.slice(a, b - a) for a, b in zip(edges, edges[1:], strict=False)])):
            path = Path(folder) / f"{at}{name}"
            with sink(path, *split(name), table.schema) as write:
                for piece in pieces:
                    write(piece)
            made.append(path.read_bytes())
    assert made[0] == made[1]


@given(table=tables(), errors=st.lists(st.fixed_dictionaries({"row": st.integers(1, 99), "reason": TEXT}), max_size=3))
@settings(max_examples=30)
def test_parts_come_back_from_the_journal(table: pa.Table, errors: list[dict[str, object]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "out é.csv")
        assert journal.begin({"input": {}, "model": {}}, restart=False, overwrite=False) == []
        journal.save(Part(0, 40, table, errors, "seen"))
        journal.save(Part(40, 50, None, []))
        journal.save(Part(60, 70, table, []))
        journal.close()
        again = Journal(Path(folder) / "out é.csv")
        keys = again.begin({"input": {}, "model": {}}, restart=False, overwrite=False)
        first, second = map(again.load, keys)
        again.close()
    assert (first.start, first.end, first.errors, first.seen) == (0, 40, errors, "seen")
    assert first.table.equals(table)
    assert (second.start, second.end, second.table) == (40, 50, None)


@given(table=tables(("whole", "größe")))
def test_a_matrix_has_the_values_and_gaps_are_nan(table: pa.Table) -> None:
    import numpy as np

    columns = (Column("größe", "number", nullable=True), Column("whole", "number", nullable=True))
    route = Route("m", "matrix", columns, 100, dtype="float64")
    small = table.set_column(
        0, "whole", pa.array([None if v is None else v % 1000 for v in table["whole"].to_pylist()], pa.int64())
    )
    made, bad = conformed(route, small, NULLS, False)
    header, (buffer,) = encoded(route, made, table.num_rows)
    values = np.frombuffer(buffer, header["dtype"]).reshape(header["shape"])
    assert not bad
    for at, name in enumerate(("größe", "whole")):
        expected = [float("nan") if v is None else float(v) for v in small[name].to_pylist()]
        assert np.array_equal(values[:, at], expected, equal_nan=True)


@given(
    header=st.dictionaries(TEXT, st.integers() | TEXT, max_size=3),
    buffers=st.lists(st.binary(max_size=100_000), max_size=3),
)
@settings(max_examples=30)
def test_messages_come_over_as_they_were(header: dict[str, object], buffers: list[bytes]) -> None:
    import socket
    import threading

    header.pop("sizes", None)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=wire.send, args=(ours, header, buffers))
        sender.start()
        got, back = wire.receive(theirs)
        sender.join()
        assert (got, [bytes(buffer) for buffer in back]) == (header, buffers)
        ours.close()
        try:
            wire.receive(theirs)
            raise AssertionError("nothing was sent")
        except EOFError:
            pass


def test_a_price_is_a_price_in_every_format() -> None:
    table = pa.table({"price": [decimal.Decimal("1.50"), None]})
    with tempfile.TemporaryDirectory() as folder:
        for name, expected in (("p.csv", '"price"\n1.50\n\n'), ("p.jsonl", '{"price":"1.50"}\n{"price":null}\n')):
            with sink(Path(folder) / name, *split(name), table.schema) as write:
                write(table)
            assert (Path(folder) / name).read_text() == expected


def test_blocks_are_of_one_size() -> None:
    table = pa.table({"a": list(range(200_000))})
    raw = Path(tempfile.mkdtemp()) / "t.parquet"
    with sink(raw, "parquet", "", table.schema) as write:
        for start in range(0, 200_000, 999):
            write(table.slice(start, 999))
    groups = pq.ParquetFile(io.BytesIO(raw.read_bytes())).metadata
    assert [groups.row_group(i).num_rows for i in range(3)] == [sinks.BLOCK_ROWS] * 3
