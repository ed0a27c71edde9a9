"""The plugin's checks and comparisons, without an engine."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ekiben.engine import kinds
from ekiben.errors import SpecError
from ekiben.local import declared
from ekiben.local.declared import KINDS
from ekiben.station import launch
from tests.waiting import PATIENCE_S

UNKNOWN = object()
BUCKET = {"state_dir": "/s", "name": "lake", "retain": False, "tags": {}}
TRAINING = {
    "state_dir": "/s",
    "name": "job",
    "tags": {},
    "spec": '{"source": "x"}',
    "storage_uri": "file:///b",
    "code_uri": "file:///c",
    "code_sha256": "aa",
    "code": '{"commit": "1", "dirty": false}',
    "input_uris": {},
}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, []),
        ({"name": UNKNOWN, "retain": UNKNOWN, "tags": UNKNOWN, "state_dir": UNKNOWN}, []),
        ({"retain": None}, []),
        ({"name": None}, [("name", "a Bucket needs it")]),
        ({"name": ""}, [("name", "a Bucket needs it")]),
        ({"retain": "yes"}, [("retain", "'yes' is not true or false")]),
        ({"tags": "a"}, [("tags", "'a' is not a map")]),
        ({"state_dir": "here"}, [("state_dir", "'here' is not an absolute path")]),
        ({"colour": 1}, [("colour", "a Bucket has no such property; it has name, retain, state_dir, tags")]),
    ],
)
def test_inputs_are_checked_by_name_and_type(change: dict[str, object], told: list[tuple[str, str]]) -> None:
    assert declared.problems(KINDS["Bucket"], {**BUCKET, **change}, UNKNOWN) == told


def test_json_inputs_must_be_json() -> None:
    assert declared.problems(KINDS["Training"], {**TRAINING, "spec": "{"}, UNKNOWN) == [("spec", "it is not JSON")]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, []),
        ({"spec": '{ "source" : "x" }'}, []),
        ({"spec": '{"source": "y"}'}, ["spec"]),
        ({"code": '{"commit": "2", "dirty": true}'}, []),
        ({"code": '{"commit": "2"}', "code_sha256": "bb"}, ["code_sha256", "code"]),
        ({"storage_uri": "file:///d"}, ["storage_uri"]),
    ],
)
def test_a_difference_is_one_of_meaning(change: dict[str, str], found: list[str]) -> None:
    assert declared.changes(KINDS["Training"], TRAINING, {**TRAINING, **change}) == found


def test_the_commit_counts_when_the_code_was_not_committed_before() -> None:
    dirty = {**TRAINING, "code": '{"commit": "1", "dirty": true}'}
    assert declared.changes(KINDS["Training"], dirty, TRAINING) == ["code"]
    assert declared.changes(KINDS["Training"], dirty, TRAINING, ["code"]) == []


def test_where_an_archive_was_made_is_no_difference() -> None:
    old = {"state_dir": "/s", "name": "a", "bucket": "b", "key": "k", "source_path": "/one", "sha256": "s", "tags": {}}
    assert declared.changes(KINDS["Object"], old, {**old, "source_path": "/two"}) == []


def test_the_schema_has_every_kind() -> None:
    resources = json.loads(kinds.schema("1.2.3"))["resources"]
    assert {name for name in resources if ":station:" in name} == {f"ekiben:station:{name}" for name in KINDS}
    assert "ekiben:aws:Image" in resources
    assert "token" not in json.dumps(resources)


def test_a_station_that_does_not_run_is_read_from_its_database(tmp_path: Path) -> None:
    state = {**BUCKET, "state_dir": str(tmp_path / "ü é#?")}
    folder = Path(state["state_dir"])
    assert declared.read(KINDS["Bucket"], state) is None
    folder.mkdir()
    with sqlite3.connect(folder / "station.db") as connection:
        connection.execute("create table resources (kind text, name text, spec text, tags text, facts text)")
        facts = json.dumps({"uri": (folder / "lake").as_uri()})
        connection.execute("insert into resources values ('bucket', 'lake', '{\"retain\": true}', '{}', ?)", (facts,))
    connection.close()
    assert declared.read(KINDS["Bucket"], state) is None, "its folder was deleted by hand"
    (folder / "lake").mkdir()
    found = declared.read(KINDS["Bucket"], state)
    assert found is not None
    assert found[0]["retain"] is True, "what the station has, not what the state says"
    assert declared.lost(KINDS["Bucket"], found[1]) == ""
    assert declared.lost(KINDS["Bucket"], {**state, "facts": {"uri": "file:///elsewhere"}}) == "facts"


def test_an_import_says_why_not() -> None:
    with pytest.raises(SpecError, match="cannot be imported"):
        declared.read(KINDS["Bucket"], {})


def test_deleting_what_is_not_there_is_silent(tmp_path: Path) -> None:
    gone = {**BUCKET, "state_dir": str(tmp_path / "gone")}
    declared.delete(KINDS["Bucket"], "urn:pulumi:dev::small::t::lake", gone)
    declared.delete(KINDS["Host"], "urn:pulumi:dev::small::t::station", gone)
    assert not (tmp_path / "gone").exists()


def test_a_folder_that_is_no_station_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(Exception, match="may be something else"):
        declared.delete(KINDS["Host"], "urn:pulumi:dev::small::t::station", {"state_dir": str(tmp_path)})
    assert (tmp_path / "thesis.txt").exists()


def test_a_station_that_dies_while_it_is_asked_is_followed_by_another(tmp_path: Path) -> None:
    state_dir = (tmp_path / "state").resolve()
    urn = "urn:pulumi:dev::small::ekiben:station:Bucket::lake"
    bucket = {**BUCKET, "state_dir": str(state_dir)}
    try:
        declared.put(KINDS["Host"], urn, {"state_dir": str(state_dir)})
        for call in (declared.put, declared.delete):
            pid = int((state_dir / "station.lock").read_text("ascii"))
            os.kill(pid, signal.SIGSTOP)
            with ThreadPoolExecutor() as pool:
                asked = pool.submit(call, KINDS["Bucket"], urn, bucket)
                time.sleep(0.2)  # so that it is under way by then; it must succeed in any case
                os.kill(pid, signal.SIGKILL)
                asked.result()
            assert (state_dir / "buckets" / "lake").exists() == (call is declared.put)
            assert int((state_dir / "station.lock").read_text("ascii")) != pid
    finally:
        declared.delete(KINDS["Host"], urn, {"state_dir": str(state_dir)})
    assert not state_dir.exists()


def test_a_station_that_could_not_take_its_leave_leaves_nothing(tmp_path: Path) -> None:
    from ekiben.station.parents import scratch
    from ekiben.station.processes import STATION

    state_dir = (tmp_path / "state").resolve()
    urn, host = "urn:pulumi:dev::small::ekiben:station:Host::station", {"state_dir": str(state_dir)}
    declared.put(KINDS["Host"], urn, host)
    os.kill(int((state_dir / "station.lock").read_text("ascii")), signal.SIGKILL)
    while launch.running(state_dir):
        time.sleep(0.01)
    with subprocess.Popen(["sleep", "600"], env={STATION: str(state_dir), "PATH": os.defpath}) as call:
        declared.delete(KINDS["Host"], urn, host)
        assert call.wait(PATIENCE_S) == -signal.SIGKILL
    assert not state_dir.exists()
    made = scratch(state_dir)
    made.rmdir()
    declared.delete(KINDS["Host"], urn, host)
    assert not made.exists(), "deleting twice is silent"
