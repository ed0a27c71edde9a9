"""`ekiben invoke` on files: names of storage, URIs, globs, versions, endpoints; and what it prints."""

from __future__ import annotations

import json
import os
import shutil

import pyarrow.parquet as pq
import pytest

from ekiben.batch.places import found, resolved
from ekiben.batch.sources import Files
from ekiben.errors import SpecError
from ekiben.runtime import connect
from ekiben.storage import open_storage
from tests.storage.conftest import s3

from .conftest import csv, invoke, lines


def test_a_folder_of_the_storage_by_a_version(platform, tmp_path) -> None:
    folder = platform / "people" / "2024 é"
    folder.mkdir(parents=True)
    csv(folder / "b.csv", ["id", "x"], [["b", 2]])
    csv(folder / "a.csv", ["x", "id"], [[1, "a"], [-1, "worse"]])
    for ignored in (".hidden.csv", "half.csv.tmp", "notes.txt", "old.csv.errors.jsonl"):
        csv(folder / ignored, ["id", "x"], [["no", 0]])
    out, err = invoke(
        "sums@champion", "--input", "lake/people/", "--output", "lake/out.jsonl", "--key", "id", "--route", "items"
    )
    assert out.strip() == str(platform / "out.jsonl")
    assert "2 predictions of sums:1 in" in err
    assert "1 rows have none; why is in" in err
    assert [(row["id"], row["y"]) for row in lines(platform / "out.jsonl")] == [("a", 3.0), ("b", 5.0)]
    assert lines(platform / "out.jsonl.errors.jsonl")[0]["key"] == {"id": "worse"}


def test_globs_lists_and_json(platform, tmp_path) -> None:
    for name in ("p-1", "p-2", "q-1"):
        csv(tmp_path / f"{name}.csv", ["id", "x", "größe"], [[name, 1, 1]])
    words = (
        "--input",
        "p-*.csv",
        "--input",
        str(tmp_path / "q-1.csv"),
        "--output",
        "out.parquet",
        "--key",
        "id",
        "--json",
    )
    summary = json.loads(invoke("sums:2", *words, "--route", "matrix", "--workers", 1)[0])
    assert {name: summary[name] for name in ("rows", "predicted", "failed", "model", "route", "errors")} == {
        "rows": 3, "predicted": 3, "failed": 0, "model": "sums:2", "route": "matrix", "errors": "",
    }  # fmt: skip
    assert pq.read_table(tmp_path / "out.parquet").to_pydict() == {"id": ["p-1", "p-2", "q-1"], "prediction": [4.0] * 3}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--input", "in.csv"), "--output"),
        (("--output", "out.csv"), "--input or with --sql"),
        (("--input", "in.csv", "--sql", "select 1", "--output", "o.csv"), "not both"),
        (("--sql", "select 1", "--output", "o.csv"), "needs --database"),
        (("--input", "in.csv", "--data", "{}", "--output", "o.csv"), "Use one of them"),
        (("--input", "in.csv", "--output", "o.txt"), "of no known kind"),
        (("--input", "in.csv", "--output", "o.parquet.gz"), "of no known kind"),
        (("--input", "in.csv", "--output", "o.csv", "--delimiter", "::"), "is not one character"),
    ],
)
def test_options_that_do_not_go_together(platform, tmp_path, ek, words, said) -> None:
    csv(tmp_path / "in.csv", ["x"], [[1]])
    done = ek("invoke", "sums:1", *words)
    assert done.code == (3 if words[-1] in ("o.txt", "o.parquet.gz", "::") else 2)
    assert said in done.err
    assert not list(tmp_path.glob(".o*"))


def test_what_is_not_there(platform, tmp_path, ek) -> None:
    for words, said in (
        (("sums:1", "--input", "nowhere.csv"), "no file"),
        (("sums:1", "--input", "lake/nothing/*.csv"), "no file of a kind"),
        (("sums:9", "--input", "in.csv"), "sums:9"),
        (("sums", "--input", "in.csv"), "MODEL:3 or MODEL@ALIAS"),
        (("sums:1", "--input", "in.csv", "--output", "away/o.csv"), "its folder does not exist"),
    ):
        csv(tmp_path / "in.csv", ["x"], [[1]])
        done = ek("invoke", *(words if "--output" in words else (*words, "--output", "o.csv")), "--route", "items")
        assert done.code == 5, done.err
        assert said in done.err


def test_a_bento_with_other_bytes_is_never_run(platform, bento, tmp_path, ek, monkeypatch) -> None:
    csv(tmp_path / "in.csv", ["x"], [[1]])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = tmp_path / "kept.tar"
    path = bento(3.0).path
    shutil.copyfile(path, kept)
    try:
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        done = ek("invoke", "sums:2", "--input", "in.csv", "--output", "o.csv", "--route", "items")
    finally:
        shutil.copyfile(kept, path)
    assert done.code == 5
    assert "SHA-256" in done.err


def test_names_of_storage_paths_and_uris(platform, tmp_path) -> None:
    runtime = connect(os.environ["EKIBEN_PLATFORM"])
    assert resolved("lake/a b.csv", runtime) == platform / "a b.csv"
    assert resolved("./lake/a.csv", runtime) == tmp_path / "lake" / "a.csv"
    assert resolved("other/a.csv", runtime) == tmp_path / "other" / "a.csv"
    assert resolved("s3://bucket/a.csv", runtime) == "s3://bucket/a.csv"
    assert resolved((tmp_path / "ü.csv").as_uri(), None) == tmp_path / "ü.csv"
    with pytest.raises(SpecError, match="climbs"):
        resolved("file:///a/../etc/passwd", None)


def test_input_from_a_store_and_output_to_it(batch, monkeypatch, tmp_path) -> None:
    with s3(monkeypatch) as uri:
        lake = open_storage(uri)
        for number in (2, 1):
            rows = "".join(f"{i},{i}\n" for i in range(number * 100, number * 100 + 100))
            lake.put(f"in/p {number} é.csv", f"id,x\n{rows}".encode())
        lake.put("in/notes.txt", b"no data")
        files = found([f"{uri}/in/"], None)
        assert [file.uri for file in files] == [f"{uri}/in/p 1 é.csv", f"{uri}/in/p 2 é.csv"]
        assert [file.uri for file in found([f"{uri}/in/p*2*"], None)] == [f"{uri}/in/p 2 é.csv"]

        def stop(rows: int, failed: int) -> None:
            if rows == 100:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            batch(Files(files), f"{uri}/out/scored.parquet", keys=("id",), save_every_s=0, advance=stop)
        lake.put("in/p 2 é.csv", lake.get("in/p 2 é.csv") + b"200,200\n")
        with pytest.raises(SpecError, match="p 2 é.csv has changed since"):
            batch(Files(found([f"{uri}/in/"], None)), f"{uri}/out/scored.parquet", keys=("id",))
        summary = batch(Files(found([f"{uri}/in/"], None)), f"{uri}/out/scored.parquet", keys=("id",), restart=True)
        assert (summary["rows"], summary["resumed_rows"]) == (201, 0)
        assert [found.key for found in lake.list("out/")] == ["out/scored.parquet"]
        lake.download("out/scored.parquet", tmp_path / "scored.parquet")
        assert pq.read_table(tmp_path / "scored.parquet")["y"].to_pylist()[-1] == 401.0
        with pytest.raises(SpecError, match="is there already"):
            batch(Files(found([f"{uri}/in/"], None)), f"{uri}/out/scored.parquet", keys=("id",))
