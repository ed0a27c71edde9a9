"""put, train, runs, logs, cancel."""

from __future__ import annotations

import json
import re

import pytest

from ekiben.errors import NoCapacity
from ekiben.records import Interruption, Run
from ekiben.runs import RUN_ID

from .shelf import runtime as shelf


def test_train_starts_a_run_and_prints_its_id(ek, platform) -> None:
    said = ek(
        "train",
        "income",
        "--param",
        "depth=4",
        "--param",
        "eta=0.1",
        "-p",
        "fast=true",
        "-p",
        "name=vélo=2",
        "--input",
        "census=shelf://x/",
    )
    assert said.code == 0
    assert RUN_ID.fullmatch(said.out.strip())
    assert shelf.STATE["job"].params == {"depth": 4, "eta": 0.1, "fast": True, "name": "vélo=2"}
    assert shelf.STATE["job"].inputs == {"census": "shelf://x/"}


def test_the_only_training_need_not_be_named(ek, platform) -> None:
    assert ek("train", "--json").json["training"] == "income"


def test_the_same_id_twice_is_one_run(ek, platform) -> None:
    assert ek("train", "income", "--id", "nightly", "--json").json["id"] == "nightly"
    assert ek("train", "income", "--id", "nightly").code == 0
    assert len(ek("runs", "--json").json) == 1


@pytest.mark.parametrize(
    "words",
    [["--param", "depth"], ["--param", "=4"], ["--param", "x=NaN"], ["--param", "x=-Infinity"], ["--input", "a"]],
)
def test_a_bad_parameter_starts_nothing(ek, platform, words) -> None:
    said = ek("train", "income", *words)
    assert said.code == 3
    assert words[0] in said.err
    assert shelf.STATE["runs"] == []


def test_what_the_platform_refuses_is_said(ek, platform) -> None:
    shelf.STATE["raise"] = {"training": NoCapacity("shelf", "start a run", "there is no GPU", "Ask for none")}
    said = ek("train", "income")
    assert (said.code, said.err) == (5, "Error: shelf: cannot start a run: there is no GPU. Ask for none.\n")


def test_an_unknown_training_names_those_there(ek, platform) -> None:
    said = ek("train", "incom")
    assert said.code == 5
    assert "there is income" in said.err


def test_follow_shows_the_log_and_waits(ek, platform) -> None:
    said = ek("train", "income", "--id", "r1", "--follow")
    assert (said.code, said.out) == (0, "one\ntwo\n")
    assert "succeeded" in said.err
    assert "auc 0.91" in said.err


def test_follow_with_json_prints_the_run_and_nothing_else(ek, platform) -> None:
    said = ek("train", "income", "--id", "r1", "--follow", "--json")
    assert said.json["state"] == "succeeded"
    assert "one\ntwo\n" in said.err


def test_follow_of_a_run_that_fails_exits_with_6(ek, platform) -> None:
    shelf.STATE["end"] = "failed"
    said = ek("train", "income", "--id", "r1", "--follow", "--json")
    assert said.code == 6
    assert said.json["state"] == "failed"
    assert "the data is bad" in said.err


def test_ctrl_c_on_follow_cancels_the_run(ek, platform) -> None:
    shelf.STATE["end"] = "interrupted"
    assert ek("train", "income", "--id", "r1", "--follow").code == 130
    assert ek("runs", "r1", "--json").json["state"] == "cancelled"


def test_ctrl_c_on_logs_leaves_the_run_alone(ek, platform) -> None:
    ek("train", "income", "--id", "r1")
    shelf.STATE["end"] = "interrupted"
    assert ek("logs", "r1", "--follow").code == 130
    assert ek("runs", "r1", "--json").json["state"] == "running"


def test_runs_are_listed_or_shown(ek, platform) -> None:
    said = ek("runs")
    assert (said.code, said.out) == (0, "")
    assert "ekiben train" in said.err
    assert ek("runs", "--json").json == []
    ek("train", "income", "--id", "r1", "--follow")
    assert re.search(r"^r1 +income +succeeded", ek("runs", "income").out, re.MULTILINE)
    assert "auc" in ek("runs", "r1").out
    said = ek("runs", "r2")
    assert said.code == 5
    assert "ekiben runs" in said.err


def test_logs_of_a_run_the_newest_run_and_a_function(ek, platform) -> None:
    assert ek("logs").code == 5
    ek("train", "income", "--id", "r1")
    assert ek("logs", "r1").out == ek("logs").out == "one\ntwo\n"
    shelf.STATE["lines"] = ["naïve \x1b[31m", '"quoted"']
    lines = ek("logs", "r1", "--json").out.splitlines()
    assert [json.loads(line)["line"] for line in lines] == shelf.STATE["lines"]
    assert ek("logs", "retrain").out == "said so\n"
    assert ek("logs", "retrain", "--follow").code == 3
    assert ek("logs", "nothing").code == 5


def test_cancel_stops_a_run(ek, platform) -> None:
    ek("train", "income", "--id", "r1")
    assert ek("cancel", "r1", "--json").json["state"] == "cancelled"
    assert ek("cancel", "r2").code == 5


def test_put_uploads_files(ek, platform, tmp_path) -> None:
    first, second = tmp_path / "a b.csv", tmp_path / "日本.csv"
    first.write_bytes(b"")
    second.write_bytes(b"\x00\xff")
    said = ek("put", str(first), str(second), "lake/in/")
    assert (said.code, said.out) == (0, "shelf://lake/in/a b.csv\nshelf://lake/in/日本.csv\n")
    assert said.err == "Uploading to lake: 2 of 2\n"
    assert shelf.STATE["objects"] == {"in/a b.csv": b"", "in/日本.csv": b"\x00\xff"}
    assert ek("put", str(second), "lake/x.csv", "--json").json == [
        {"key": "x.csv", "uri": "shelf://lake/x.csv", "size_bytes": 2, "etag": "1"}
    ]
    assert ek("put", str(second), "lake").out == "shelf://lake/日本.csv\n"


def test_put_uploads_nothing_when_something_is_wrong(ek, platform, tmp_path) -> None:
    here = tmp_path / "a.csv"
    here.write_text("1")
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.csv").write_text("2")
    for words in (
        [str(here), str(tmp_path / "missing.csv"), "lake/"],
        [str(tmp_path), "lake/"],
        [str(here), str(here), "lake/one.csv"],
        [str(here), str(other / "a.csv"), "lake/"],
    ):
        assert ek("put", *words).code == 3, words
    assert ek("put", str(here), "sea/").code == 5
    assert shelf.STATE["objects"] == {}


def test_what_interruptions_cost_is_shown(ek, platform) -> None:
    lost = [
        Interruption(at="2026-01-31T09:00:00.000000Z", reason="it was ended by SIGKILL", lost_s=1.5),
        Interruption(at="2026-01-31T09:05:00.000000Z", reason="its supervisor was killed", lost_s=2.0),
    ]
    run = Run(
        id="r1", training="income", state="succeeded", submitted_at="2026-01-31T08:59:00.000000Z", attempts=3,
        started_at="2026-01-31T09:59:00.000000Z", ended_at="2026-01-31T09:10:00.000000Z", interruptions=lost,
    )  # fmt: skip
    shelf.STATE["runs"] = [run]
    listed = ek("runs").out.splitlines()[-1]
    assert "Interrupted 2 times, 3.5 s of work lost" in listed
    assert " 0.0 s " in listed, "the clock was set back"
    shown = ek("runs", "r1").out
    assert "Run r1 has succeeded after 0.0 s. Interrupted 2 times, 3.5 s of work lost." in shown
    assert "interrupted at 2026-01-31 09:05:00, 2.0 s of work lost: its supervisor was killed" in shown
    assert [one["lost_s"] for one in ek("runs", "r1", "--json").json["interruptions"]] == [1.5, 2.0]
