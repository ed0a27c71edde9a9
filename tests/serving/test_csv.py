"""CSV as the content of a request: what JSON of the same rows would be, and a 400 for whatever is no such thing."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, strategies as st

from ekiben.serving import csvs

from .conftest import Answer, Served, folder, served

SERVICE = Path(__file__).with_name("shapes") / "tables.py"
PLAIN, HEADED, BARE = "text/csv", "text/csv; header=present", "text/csv; charset=utf-8; header=absent"


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("csv")
    with served(folder(root / "bento", SERVICE.read_text(encoding="utf-8")), root / "worker") as started:
        yield started


def send(worker: Served, path: str, body: str | bytes, kind: str = PLAIN) -> Answer:
    return worker.send("POST", path, body.encode() if isinstance(body, str) else body, {"content-type": kind})


@pytest.mark.parametrize(
    ("path", "kind", "body", "answer"),
    [
        ("/predict", PLAIN, "1,2,3\r\n4,5,6\r\n", [6.0, 15.0]),
        ("/predict", PLAIN, "\ufeff1,2,3\n\n0.5, 1e0 ,-2", [6.0, -0.5]),
        ("/predict", PLAIN, '"1","2","3"', [6.0]),
        ("/predict", PLAIN, "1,,3", [None]),
        ("/predict", HEADED, "a,b,c\n1,2,3\n", [6.0]),
        ("/predict", BARE, "1,2,3\n", [6.0]),
        ("/root", PLAIN, "1,2\n-3,4\n", [[1, 2], [-3, 4]]),
        ("/same", PLAIN, "1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("/same", PLAIN, "1,2\n3,4.5\n", [[1.0, 2.0], [3.0, 4.5]]),
        ("/frame", PLAIN, "a,b\n1,2\n3,\n", [{"a": 1, "b": 2.0, "total": 3.0}, {"a": 3, "b": None, "total": 3.0}]),
        ("/columns", PLAIN, "a,b,c\n1,2,007\n", [{"b": 2, "a": 1}]),
        ("/columns", BARE, "1,2\n", [{"b": 1, "a": 2}]),
        ("/rows", PLAIN, "age,name\n36,Åsa\n7,\"a, b\n\"\"c\"\"\"\n", [
            {"name": "Åsa", "score": 18.0, "adult": True}, {"name": 'a, b\n"c"', "score": 3.5, "adult": False}]),
        ("/rows", PLAIN, "born,age\n1990-01-31,36\n", [{"name": "nobody", "score": 18.0, "adult": True}]),
        ("/rows", BARE, "36,Åsa,\n", [{"name": "Åsa", "score": 18.0, "adult": True}]),
    ],
)  # fmt: skip
def test_rows_are_what_the_method_takes(worker: Served, path: str, kind: str, body: str, answer: Any) -> None:
    got = send(worker, path, body, kind)
    assert (got.status, got.headers["content-type"], got.json) == (200, "application/json", answer)


@pytest.mark.parametrize(
    ("path", "kind", "body", "why"),
    [
        ("/predict", PLAIN, "", "shape"),
        ("/predict", PLAIN, "1,2\n", "shape"),
        ("/predict", PLAIN, "1,2,3\n1,2\n", "Row 2 of the CSV has 2 cells"),
        ("/predict", PLAIN, "1,2,x\n", "row 1 of the CSV has 'x'"),
        ("/predict", PLAIN, "1,2,1_0\n", "'1_0'"),
        ("/predict", PLAIN, '1,2,"3', "cannot be read"),
        ("/predict", PLAIN, b"1,2,\xff\n", "no UTF-8"),
        ("/predict", "text/csv; charset=latin-1", "1,2,3", "UTF-8"),
        ("/predict", "text/csv; header=perhaps", "1,2,3", "present or absent"),
        ("/root", PLAIN, "1.5,2\n3,4\n", "x"),
        ("/root", PLAIN, "1,2\n3,400\n", "x"),
        ("/frame", HEADED, "", "no header"),
        ("/frame", PLAIN, "a,a\n1,2\n", "twice"),
        ("/frame", PLAIN, "a,b\n1\n", "Row 1 of the CSV has 1 cells"),
        ("/frame", BARE, "1,2\n", "send one"),
        ("/columns", PLAIN, "a,c\n1,2\n", "lacks the columns 'b'"),
        ("/rows", PLAIN, "age\nold\n", "valid integer"),
        ("/rows", PLAIN, "age,size\n1,2\n", "Extra inputs"),
        ("/rows", PLAIN, "age\n1\n2\n3\n4\n", "at most 3"),
        ("/several", PLAIN, "1,2\n", "does not take one array"),
        ("/scalars", PLAIN, "a\n1\n", "does not take"),
        ("/predict", PLAIN, "1,2," + 200_000 * "3", "cannot be read"),
    ],
)
def test_what_is_no_such_thing_is_a_400_that_says_why(
    worker: Served, path: str, kind: str, body: str | bytes, why: str
) -> None:
    got = send(worker, path, body, kind)
    assert (got.status, why in got.body.decode()) == (400, True), got.body


def test_columns_by_their_names_are_the_parameters(worker: Served) -> None:
    assert send(worker, "/several", "a,b\n1,2.5\n3,4\n", HEADED).json == {"a": [1, 3], "b": [2.5, 4.0]}


def test_a_text_stays_the_text(worker: Served) -> None:
    assert send(worker, "/text", "1,2\n").body == b"1,2\n"


def test_sagemaker_sends_csv_to_its_own_path(worker: Served) -> None:
    assert send(worker, "/invocations", "1,2,3\n").json == [6.0]


@given(st.lists(st.lists(st.floats(width=64, allow_nan=False), min_size=3, max_size=3), min_size=1, max_size=5))
def test_numbers_are_the_very_ones(rows: list[list[float]]) -> None:
    text = "\n".join(",".join(map(repr, row)) for row in rows)
    found = csvs._numbers(csvs._rows(text.encode(), "utf-8"), "x")
    assert found.tolist() == rows


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**17), 10**17), TEXTS.filter(lambda text: csvs._value(text) is text)
)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_a_table_that_is_written_is_read_again(rows: list[tuple[Any, Any]]) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(("a", "b"))
    writer.writerows(rows)
    read = csvs._rows(file.getvalue().encode(), "utf-8")
    table = csvs.Table(read[0], read[1:])
    assert [tuple(row.values()) for row in table.rows(["a", "b"])] == rows
    assert len(table.frame(["a", "b"])) == len(rows)


def test_nan_is_a_missing_number() -> None:
    assert math.isnan(csvs._numbers([["", "1"]], "x")[0, 0])
    assert pd.isna(csvs.Table(["a"], [[""], ["1"]]).frame(["a"])["a"][0])
