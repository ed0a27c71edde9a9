"""Every format in and out; text columns, Unicode, nulls, dates, decimals; nothing at all."""

from __future__ import annotations

import datetime
import decimal
import gzip
import io
import json
import lzma

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from ekiben.batch import sinks
from ekiben.batch.places import found, split
from ekiben.batch.sinks import sink
from ekiben.batch.sources import Files, regrouped

from .conftest import csv, lines

ROWS = [{"id": f"0{i}", "x": float(i), "größe": i / 4} for i in range(250)]
EXPECTED = [{"id": row["id"], "y": 2 * row["x"] + row["größe"]} for row in ROWS]


def write(path, name):
    """ROWS as a file of this name."""
    table = pa.Table.from_pylist(ROWS)
    stem = name.removesuffix(".gz").removesuffix(".xz").removesuffix(".zst")
    raw = io.BytesIO()
    if stem.endswith("parquet"):
        pq.write_table(table, raw, row_group_size=70)
    elif stem.endswith("orc"):
        pa.orc.write_table(table, raw)
    elif stem.endswith(("jsonl", "ndjson")):
        raw.write("".join(json.dumps(row) + "\n" for row in ROWS).encode())
    else:
        options = pa.csv.WriteOptions(delimiter="\t" if stem.endswith("tsv") else ",")
        pa.csv.write_csv(table, raw, options)
    data = raw.getvalue()
    if name.endswith(".gz"):
        data = gzip.compress(data[:1000]) + gzip.compress(data[1000:])
    elif name.endswith(".xz"):
        data = lzma.compress(data)
    elif name.endswith(".zst"):
        packed = pa.BufferOutputStream()
        with pa.CompressedOutputStream(packed, "zstd") as stream:
            stream.write(raw.getvalue())
        data = packed.getvalue().to_pybytes()
    (path / name).write_bytes(data)
    return path / name


def read(path):
    """The rows of an output."""
    name = path.name
    data = path.read_bytes()
    if name.endswith(".gz"):
        data = gzip.decompress(data)
    elif name.endswith(".xz"):
        data = lzma.decompress(data)
    elif name.endswith(".zst"):
        data = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
    if ".parquet" in name:
        return pq.read_table(io.BytesIO(data)).to_pylist()
    if ".orc" in name:
        return pa.orc.read_table(io.BytesIO(data)).to_pylist()
    if ".jsonl" in name:
        return [json.loads(line) for line in data.decode().splitlines()]
    options = pa.csv.ConvertOptions(column_types={"id": pa.string()})
    return pa.csv.read_csv(io.BytesIO(data), convert_options=options).to_pylist()


READ = [
    "in.csv",
    "in.tsv",
    "in.csv.gz",
    "in.csv.xz",
    "in.csv.zst",
    "in.jsonl",
    "in.jsonl.gz",
    "in.ndjson",
    "in.parquet",
    "in.orc",
]
WRITTEN = ["out.csv", "out.csv.gz", "out.csv.xz", "out.csv.zst", "out.jsonl", "out.jsonl.zst", "out.parquet", "out.orc"]


@pytest.mark.parametrize("name", READ)
def test_formats_that_are_read(tmp_path, name) -> None:
    path = write(tmp_path, name)
    source = Files(found([str(path), str(path)], None))
    (_, schema), _ = source.schemas()
    assert list(schema) == ["id", "x", "größe"]
    pieces = list(regrouped(source.read({"größe": None, "id": None}, skip=7), 33))
    assert [piece.table.num_rows for piece in pieces] == [33] * 14 + [31]
    rows = [row for piece in pieces for row in piece.table.to_pylist()]
    assert [(row["id"], float(row["größe"])) for row in rows] == [
        (row["id"], row["größe"]) for row in (ROWS + ROWS)[7:]
    ]
    assert [n for piece in pieces for n in piece.numbers.to_pylist()] == list(range(8, 501))
    assert source.total_rows() == (500 if name in ("in.parquet", "in.orc") else None)
    assert source.fraction() == 1.0


@pytest.mark.parametrize("name", WRITTEN)
def test_formats_that_are_written(tmp_path, name) -> None:
    table = pa.table({"id": ["é", None], "y": [1.5, float("nan")], "parts": [[1.0, 2.0], []]})
    with sink(tmp_path / name, *split(name), table.schema) as put:
        put(table)
        put(table.slice(0, 0))
    first, second = read(tmp_path / name)
    assert (first["id"], first["y"]) == ("é", 1.5)
    assert first["parts"] == ("[1.0,2.0]" if "csv" in name else [1.0, 2.0])
    assert second["id"] in (None, "")


@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_rows_are_the_same_bytes_whatever_they_came_in(tmp_path, name, monkeypatch) -> None:
    monkeypatch.setattr(sinks, "BLOCK_ROWS", 50)
    table = pa.table({"id": [str(i) for i in range(173)], "y": [i / 7 for i in range(173)]})
    made = []
    for at, size in enumerate((173, 50, 7, 120)):
        with sink(tmp_path / f"{at}{name}", *split(name), table.schema) as put:
            for start in range(0, 173, size):
                put(table.slice(start, size))
        made.append((tmp_path / f"{at}{name}").read_bytes())
    assert len(set(made)) == 1
    with sink(tmp_path / f"empty{name}", *split(name), table.schema):
        pass
    assert read(tmp_path / f"empty{name}") == []


def test_from_end_to_end(batch, tmp_path) -> None:
    made = {}
    for name, output in (("in.csv.gz", "a.parquet"), ("in.orc", "b.parquet")):
        summary = batch(write(tmp_path, name), output, keys=("id",), batch_rows=33, workers=2)
        assert (summary["rows"], summary["predicted"], summary["failed"]) == (250, 250, 0)
        made[name] = (tmp_path / output).read_bytes()
    found = read(tmp_path / "a.parquet")
    assert [{"id": row["id"], "y": row["y"]} for row in found] == EXPECTED
    assert found[40]["parts"] == [40.0, 10.0]
    assert len(set(made.values())) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet", "in.csv.gz", "in.orc"]


def test_text_stays_text_and_the_number_of_a_row_is_its_key(batch, tmp_path) -> None:
    path = csv(
        tmp_path / "a b ü.csv", ["x", "größe", 'na"me'], [[1, 2, "007"], [" 3 ", "", "NA"], [1e2, "n/a", '"a,\nb"']]
    )
    batch(path, keys=('na"me',), route="matrix")
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [
        {'na"me': "007", "prediction": 4.0}, {'na"me': "NA", "prediction": 6.0}, {'na"me': "a,\nb", "prediction": 200.0},
    ]  # fmt: skip
    batch(path, "rows.csv", route="matrix")
    assert (tmp_path / "rows.csv").read_text() == '"row","prediction"\n1,4\n2,6\n3,200\n'


def test_all_columns_as_keys(batch, tmp_path) -> None:
    batch(write(tmp_path, "in.parquet"), keys=("*",), route="matrix")
    assert pq.read_table(tmp_path / "out.parquet").column_names == ["id", "x", "größe", "prediction"]


def test_dates_decimals_and_numbers_with_gaps_come_to_a_frame_as_pandas_has_them(batch, model, tmp_path) -> None:
    table = pa.table(
        {
            "x": pa.array([1, None, 3], pa.int32()),
            "day": pa.array([datetime.date(2024, 2, 29), None, datetime.date(1900, 1, 1)]),
            "at": pa.array([datetime.datetime(2024, 1, 1, 12, 30, 0, 5), None, None], pa.timestamp("ns", "UTC")),
            "price": pa.array([decimal.Decimal("1.25"), None, decimal.Decimal("3.00")]),
            "text": pa.array(["é", None, "c"]).dictionary_encode(),
            "yes": [True, False, True],
            "maybe": [True, None, False],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    bare = model._replace(signature={})
    batch(tmp_path / "in.parquet", route="frame", model=bare)
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert found[0]["dtypes"] == (
        "x:float64 day:datetime64[us] at:datetime64[us] price:float64 text:str yes:bool maybe:object"
    )
    assert [row["y"] for row in found][::2] == [2.0, 6.0]
    batch(tmp_path / "in.parquet", "keys.csv", route="frame", keys=("day", "at", "price", "text"), model=bare)
    first = (tmp_path / "keys.csv").read_text().splitlines()[1]
    assert first.startswith('2024-02-29,2024-01-01 12:30:00.000005000Z,1.25,"é",2,')


def test_columns_of_csv_get_the_types_that_their_head_has_for_a_frame(batch, model, tmp_path) -> None:
    path = csv(tmp_path / "in.csv", ["x", "ok", "name"], [[1, "true", "a"], ["?", "false", "7"]])
    summary = batch(path, "out.jsonl", route="frame", model=model._replace(signature={}), nulls=("?",))
    kinds = "x:float64 ok:bool name:str"
    assert lines(tmp_path / "out.jsonl") == [
        {"row": 1, "y": 2.0, "dtypes": kinds},
        {"row": 2, "y": None, "dtypes": kinds},
    ]
    assert summary["failed"] == 0


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.parquet", "in.orc"])
def test_input_without_rows(batch, tmp_path, name) -> None:
    table = pa.table(
        {"id": pa.array([], pa.string()), "x": pa.array([], pa.float64()), "größe": pa.array([], pa.float64())}
    )
    if name.endswith("csv"):
        pa.csv.write_csv(table, tmp_path / name)
    elif name.endswith("orc"):
        pa.orc.write_table(table, tmp_path / name)
    elif name.endswith("parquet"):
        pq.write_table(table, tmp_path / name)
    else:
        (tmp_path / name).write_text("\n\n")
    keys = () if name.endswith("jsonl") else ("id",)
    if not keys:
        with pytest.raises(ValueError, match="'x' is not there"):
            batch(tmp_path / name, keys=keys)
        return
    summary = batch(tmp_path / name, keys=keys)
    assert summary["rows"] == 0
    found = pq.read_table(tmp_path / "out.parquet")
    assert (found.num_rows, found.column_names) == (0, ["id", "y", "kind", "parts"])


@pytest.mark.parametrize("data", [b"", b"not parquet at all", b"PAR1" * 10])
@pytest.mark.parametrize("name", ["in.csv", "in.parquet", "in.orc", "in.csv.gz", "in.csv.xz", "in.csv.zst"])
def test_a_broken_file_is_named(batch, tmp_path, name, data) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=name):
        batch(tmp_path / name)
    assert not (tmp_path / "out.parquet").exists()


def test_a_file_that_ends_too_early_is_named(batch, tmp_path) -> None:
    path = write(tmp_path, "in.csv.gz")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"in\.csv\.gz cannot be read as csv"):
        list(Files(found([str(path)], None)).read({"x": None}, 0))
