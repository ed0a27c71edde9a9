"""Read the census files of a folder, refuse what is wrong by file and row, and split by year."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow.parquet
from columns import CHECKED, ID, INPUTS, KEYS, LABEL, TARGET, YEAR, Column

READ = {**KEYS, **INPUTS, **CHECKED}
SHOWN = 20
FEWEST = 100


class BadData(Exception):
    """The data is refused; the message names the files and the rows."""


class Split(NamedTuple):
    """train and tune: the earlier years (a fifth of them to set the threshold on); test: the last year."""

    train: pd.DataFrame
    tune: pd.DataFrame
    test: pd.DataFrame


def read(folder: Path) -> pd.DataFrame:
    """All labelled rows of the folder's Parquet, CSV and JSON files, by id, as whole numbers. Raises BadData.

    A file with the label but without the year holds labels, by id, for the rows of the other files.
    """
    people, labels, problems = [], [], []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith((".", "_"))):
        try:
            frame = _load(path)
            labels_only = TARGET in frame and YEAR not in frame
            columns = {ID: KEYS[ID]} if labels_only else dict(READ)
            if TARGET in frame:
                columns[TARGET] = LABEL
            checked = _validate(frame, columns, path.relative_to(folder).as_posix())
            (labels if labels_only else people).append(checked)
        except BadData as problem:
            problems.append(str(problem))
    if problems:
        raise BadData("\n".join(problems))
    if not people:
        raise BadData(f"There is no data in {folder}: no file with the columns {', '.join(READ)}.")
    return _join(pd.concat(people, ignore_index=True), labels)


def split(frame: pd.DataFrame) -> Split:
    """By year: the last to test on, the earlier ones to learn from. Raises BadData where there is one year only."""
    years = sorted(frame[YEAR].unique())
    if len(years) < 2:
        raise BadData(f"The data has the year {years[0]} only: it takes two or more, to learn from and to test on.")
    earlier, test = frame[frame[YEAR] < years[-1]], frame[frame[YEAR] == years[-1]]
    parts = Split(earlier[np.arange(len(earlier)) % 5 != 0], earlier[::5], test)
    for name, part in parts._asdict().items():
        if part[TARGET].nunique() < 2 or len(part) < FEWEST:
            raise BadData(
                f"There are {len(part)} rows to {name}: it takes {FEWEST} or more, with both answers among them."
            )
    return parts


def _load(path: Path) -> pd.DataFrame:
    """The columns of a file that are of use, as they stand in it. The index counts its rows from 1."""
    wanted = {*READ, TARGET}
    try:
        match path.suffix.lower():
            case ".parquet" | ".pq":
                there = pyarrow.parquet.read_schema(path).names
                frame = pd.read_parquet(path, columns=[name for name in there if name in wanted])
            case ".csv":
                frame = pd.read_csv(
                    path, dtype=str, keep_default_na=False, encoding="utf-8-sig", usecols=lambda name: name in wanted
                )
            case ".json" | ".jsonl" | ".ndjson":
                with path.open(encoding="utf-8") as file:
                    lines = file.read(1024).lstrip()[:1] != "["
                frame = pd.read_json(path, lines=lines, dtype=False)
                frame = frame[[name for name in frame if name in wanted]]
            case _:
                raise BadData(
                    f"{path.name}: it is not a Parquet (.parquet, .pq), CSV (.csv) or JSON (.json, .jsonl) file."
                )
    except (ValueError, OSError, KeyError) as error:
        raise BadData(
            f"{path.name}: it cannot be read: {str(error).splitlines()[0] or type(error).__name__}"
        ) from error
    if frame.empty:
        raise BadData(f"{path.name}: it has no rows, or none of the columns {', '.join(READ)}.")
    return frame.set_axis(range(1, len(frame) + 1), axis="index")


def _validate(frame: pd.DataFrame, columns: dict[str, Column], name: str) -> pd.DataFrame:
    """The columns as whole numbers. Raises BadData with the first rows that are wrong."""
    if missing := [column for column in columns if column not in frame]:
        raise BadData(f"{name}: it lacks the columns {', '.join(missing)}.")
    numbers = pd.DataFrame({column: _numbers(frame[column]) for column in columns})
    schema = pa.DataFrameSchema(
        {
            column: pa.Column(
                float,
                [
                    pa.Check.in_range(about.low, about.high, error=f"is not from {about.low} to {about.high}"),
                    pa.Check(lambda values: values % 1 == 0, error="is not a whole number"),
                ],
                unique=column == ID,
                report_duplicates="exclude_first",
            )
            for column, about in columns.items()
        }
    )
    try:
        return schema.validate(numbers, lazy=True).astype("int64")
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases.drop_duplicates(["index", "column"]).sort_values(["index", "column"])
        lines = list(_named(cases.head(SHOWN), frame, name))
        rows = cases["index"].nunique()
        if len(cases) > SHOWN:
            lines.append(f"{name}: ... {rows:,} of {len(frame):,} rows are wrong.")
        raise BadData("\n".join(lines)) from error


def _named(cases: pd.DataFrame, frame: pd.DataFrame, name: str) -> Iterator[str]:
    for case in cases.itertuples():
        wrong = {"not_nullable": "is missing or not a number", "field_uniqueness": "is there twice"}
        value = frame.at[case.index, case.column]
        yield f"{name} row {case.index}: {case.column} {str(value)[:40]!r} {wrong.get(case.check, case.check)}."


def _numbers(values: pd.Series) -> pd.Series:
    """As floats, NaN for what is no number. A category is converted once for each value, not for each row."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        meaning = pd.to_numeric(pd.Series(values.cat.categories.astype(str)), errors="coerce")
        return pd.Series(meaning.reindex(values.cat.codes).to_numpy(float), index=values.index)
    return pd.to_numeric(values, errors="coerce").astype(float)


def _join(people: pd.DataFrame, labels: list[pd.DataFrame]) -> pd.DataFrame:
    """People with their labels, by id. Those that have none yet are left out. Raises BadData for an id that is there twice."""
    for what, frame in (("people", people), *([("labels", pd.concat(labels))] if labels else [])):
        if (doubled := frame[ID][frame[ID].duplicated()]).size:
            some = ", ".join(str(id) for id in doubled.head(SHOWN))
            raise BadData(
                f"{doubled.size:,} ids of {what} are in two files, such as {some}. Was a file put there twice?"
            )
    if TARGET not in people:
        people[TARGET] = float("nan")
    if labels:
        late = pd.concat(labels).set_index(ID)[TARGET]
        people[TARGET] = people[TARGET].fillna(people[ID].map(late))
    labelled = people[people[TARGET].notna()]
    if labelled.empty:
        raise BadData(f"None of the {len(people):,} people has a label: the file with {ID} and {TARGET} is missing.")
    return labelled.astype("int64").sort_values(ID, ignore_index=True)
