"""What does not fit is said before the first batch, all of it; a row that cannot be fails alone."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ekiben.errors import ModelFailed, SpecError

from .conftest import csv, lines


def test_all_that_does_not_fit_is_said_at_once(batch, tmp_path) -> None:
    one, two = tmp_path / "in" / "a.parquet", tmp_path / "in" / "b.parquet"
    one.parent.mkdir()
    pq.write_table(pa.table({"x": ["text"], "größe": [True], "id": [1], "label": [1.5]}), one)
    pq.write_table(pa.table({"größe": [1.0], "id": ["1"], "n": [[1]]}), two)
    with pytest.raises(SpecError) as caught:
        batch(tmp_path / "in", keys=("id", "day", "y"))
    text = str(caught.value)
    for problem in (
        "a.parquet: the column 'x' is string, and the model takes a number",
        "a.parquet: the column 'label' is double, and the model takes a text",
        "a.parquet: the key 'day' is not there",
        "b.parquet: the column 'x' is not there",
        "b.parquet: the column 'n' is list<element: int64>, and the model takes a whole number",
        "b.parquet: the key 'id' is string, and int64 in the first file",
        "the key 'y' is a column of the model's answer, too",
    ):
        assert problem in text
    assert "größe" not in text
    assert not (tmp_path / ".out.parquet.part").exists()


@pytest.mark.parametrize(
    ("route", "said"), [("single", "takes no batches"), ("nothing", "no route 'nothing'"), ("", "choose with --route")]
)
def test_a_route_that_takes_no_batches(batch, tmp_path, route, said) -> None:
    with pytest.raises(SpecError, match=said):
        batch(csv(tmp_path / "in.csv", ["x"], [[1]]), route=route)


def test_rows_that_the_service_refuses_fail_alone(batch, tmp_path) -> None:
    rows = [
        ["a", 1, 1, 7, "l"], ["b", -1, 1, "", ""], ["c", "", 1, "", ""], ["d", "many", 1, "1.5", ""], ["é", 1000, 0, "", ""],
        ["f", 1001, "x", "", ""], ["g", " 2 ", "", "", ""],
    ]  # fmt: skip
    summary = batch(csv(tmp_path / "in.csv", ["id", "x", "größe", "n", "label"], rows), keys=("id",))
    assert (summary["rows"], summary["predicted"], summary["failed"]) == (7, 3, 4)
    assert pq.read_table(tmp_path / "out.parquet").select(["id", "y"]).to_pylist() == [
        {"id": "a", "y": 3.0}, {"id": "é", "y": 2000.0}, {"id": "g", "y": 5.0},
    ]  # fmt: skip
    assert summary["errors"] == str(tmp_path / "out.parquet.errors.jsonl")
    errors = lines(tmp_path / "out.parquet.errors.jsonl")
    assert [(e["row"], e["key"]["id"]) for e in errors] == [(2, "b"), (3, "c"), (4, "d"), (6, "f")]
    assert errors[0]["reason"] == "x: Input should be greater than or equal to 0"
    assert errors[1]["reason"] == "x: Input should be a valid number"
    assert errors[2]["reason"] == "x: 'many' is not a number; n: '1.5' is not a whole number"
    assert errors[3]["reason"] == "größe: 'x' is not a number"


def test_strict_stops_at_the_first_and_goes_on_when_it_is_not_strict_any_more(batch, tmp_path) -> None:
    path = csv(tmp_path / "in.csv", ["id", "x"], [[i, i if i != 150 else -1] for i in range(300)])
    with pytest.raises(SpecError, match=r"Row 151 of the input \(id=150\): x: Input should be greater"):
        batch(path, keys=("id",), strict=True, save_every_s=0)
    assert not (tmp_path / "out.parquet").exists()
    summary = batch(path, keys=("id",))
    assert (summary["failed"], summary["predicted"], summary["resumed_rows"]) == (1, 299, 100)


def test_a_row_on_which_the_model_raises_and_one_on_which_it_dies_fail_alone(batch, tmp_path) -> None:
    rows = [[i, {17: -666, 40: -999, 41: -999}.get(i, i), 0] for i in range(90)]
    path = csv(tmp_path / "in.csv", ["id", "x", "größe"], rows)
    summary = batch(path, keys=("id",), route="matrix", batch_rows=60, workers=2)
    assert (summary["predicted"], summary["failed"]) == (87, 3)
    errors = lines(tmp_path / "out.parquet.errors.jsonl")
    assert [(e["row"], e["reason"]) for e in errors] == [
        (18, "ValueError: 666 is no number of mine"),
        (41, "its worker died by SIGKILL"),
        (42, "its worker died by SIGKILL"),
    ]
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["prediction"] for row in found] == [2.0 * x for _, x, _ in rows if x >= 0]


def test_a_model_that_always_fails_ends_the_run(batch, tmp_path) -> None:
    path = csv(tmp_path / "in.csv", ["x", "größe"], [[-666, 0]] * 300)
    with pytest.raises(ModelFailed, match="fails on more than 100 rows of one batch; the last said: ValueError: 666"):
        batch(path, route="matrix")


def test_answers_that_are_not_one_a_row_end_the_run(batch, tmp_path) -> None:
    with pytest.raises(ModelFailed, match="it gave 1 answers for 2 rows"):
        batch(csv(tmp_path / "in.csv", ["x", "größe"], [[1, 2], [3, 4]]), route="short")


def test_a_batch_that_takes_too_long_ends_the_run(batch, tmp_path) -> None:
    with pytest.raises(ModelFailed, match=r"has not answered a batch within 5 s.*--batch-rows"):
        batch(csv(tmp_path / "in.csv", ["x", "größe"], [[-60, 2], [3, 4]]), route="matrix", timeout_s=5)


def test_whole_numbers_have_no_gaps_and_no_more_than_their_dtype(batch, tmp_path) -> None:
    table = pa.table(
        {"x": pa.array([1.0, None, 127, 128, -129, 1.5]), "größe": pa.array([1, 1, 1, 1, 1, 1], pa.uint8())}
    )
    pq.write_table(table, tmp_path / "in.parquet")
    batch(tmp_path / "in.parquet", "out.jsonl", route="whole")
    assert [(row["row"], row["prediction_0"]) for row in lines(tmp_path / "out.jsonl")] == [(1, 2), (3, 254)]
    assert [e["reason"] for e in lines(tmp_path / "out.jsonl.errors.jsonl")] == [
        "x: there is no value", "x: 128 is more than 127", "x: -129 is less than -128", "x: '1.5' is not a whole number",
    ]  # fmt: skip


def test_bounds_of_the_signature_hold_for_arrays(batch, model, tmp_path) -> None:
    columns = [{"name": "größe", "nullable": False}, {"name": "x", "minimum": 0, "maximum": 10}]
    path = csv(tmp_path / "in.csv", ["x", "größe"], [[1, 5], [11, 5], [-1, 5], ["", 5], [1, ""]])
    summary = batch(path, "out.jsonl", route="matrix", model=model._replace(signature={"columns": columns}))
    assert summary["failed"] == 3
    assert [row["prediction"] for row in lines(tmp_path / "out.jsonl")] == [11.0, 10.0]


def test_lines_that_are_no_rows_fail_alone_with_their_number(batch, tmp_path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('id,x,größe\na,1,0\nb,2\n"c\nc",3,0\nd,4,0,0\ne,5,0\nf\n')
    batch(path, "out.jsonl", keys=("id",), route="matrix")
    assert [(row["id"], row["prediction"]) for row in lines(tmp_path / "out.jsonl")] == [
        ("a", 2),
        ("c\nc", 6),
        ("e", 10),
    ]
    assert lines(tmp_path / "out.jsonl.errors.jsonl") == [
        {"row": 2, "key": None, "reason": "it has 2 values, not 3"},
        {"row": 4, "key": None, "reason": "it has 4 values, not 3"},
        {"row": 6, "key": None, "reason": "it has 1 values, not 3"},
    ]
    rows = [
        '{"id": 1, "x": 1}',
        "{",
        '{"id": "two", "x": 2}',
        "[3]",
        '{"id": 4, "x": "4"}',
        '{"x": 5}',
        '{"id": 6, "x": 6, "z": {}}',
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    batch(tmp_path / "in.jsonl", "more.jsonl", keys=("id",))
    assert [(row["id"], row["y"]) for row in lines(tmp_path / "more.jsonl")] == [(1, 3.0), (None, 11.0), (6, 13.0)]
    errors = lines(tmp_path / "more.jsonl.errors.jsonl")
    assert [e["row"] for e in errors] == [2, 3, 4, 5]
    assert errors[2]["reason"] == "it is list, not an object"
    assert "id" in errors[1]["reason"]
    assert "x: " in errors[3]["reason"]


def test_errors_of_an_earlier_run_do_not_stay(batch, tmp_path) -> None:
    batch(csv(tmp_path / "in.csv", ["x"], [[1], [-1]]))
    assert (tmp_path / "out.parquet.errors.jsonl").exists()
    batch(csv(tmp_path / "in.csv", ["x"], [[1], [2]]), overwrite=True)
    assert not (tmp_path / "out.parquet.errors.jsonl").exists()


def test_a_service_that_cannot_start_is_told_with_its_reason(batch, bento, model, tmp_path) -> None:
    broken = bento(None)
    with pytest.raises(ModelFailed, match="cannot be started: TypeError"):
        batch(
            csv(tmp_path / "in.csv", ["x"], [[1]]), route="items",
            model=model._replace(digest=broken.sha256, uri=broken.path.as_uri()),
        )  # fmt: skip
    assert json.loads((tmp_path / ".out.parquet.part" / "binding.json").read_text())["model"]["digest"] == broken.sha256
