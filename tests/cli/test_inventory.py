"""inventory: what exists, what is left, what was to be retained."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ekiben.cli.remains import sockets_dir
from ekiben.station import launch

TAGS = {"ekiben:platform": "shop", "ekiben:stack": "local", "ekiben:component": "lake"}


@pytest.fixture
def pulumi_state(folder: Path):
    """Write what Pulumi's local state says of the stack: its resources."""

    def write(*names: str, stack: str = "local") -> None:
        path = folder / ".ekiben" / ".pulumi" / "stacks" / "shop" / f"{stack}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        urn = f"urn:pulumi:{stack}::shop::"
        resources = [{"urn": f"{urn}pulumi:pulumi:Stack::shop-{stack}", "type": "pulumi:pulumi:Stack"}]
        resources += [
            {
                "urn": f"{urn}ekiben:station:Bucket::{name}",
                "type": "ekiben:station:Bucket",
                "custom": True,
                "inputs": {"tags": TAGS},
            }
            for name in names
        ]
        latest = {"resources": resources} if names else {}
        path.write_text(json.dumps({"version": 3, "checkpoint": {"stack": stack, "latest": latest}}))

    return write


@pytest.fixture
def state(folder: Path) -> Iterator[Path]:
    """The state folder of the stack `local`; what runs for it is ended afterwards."""
    path = folder / ".ekiben" / "local"
    path.mkdir(parents=True)
    yield path
    launch.stop(path)
    shutil.rmtree(sockets_dir(path), ignore_errors=True)


def kinds(said) -> list[tuple[str, str]]:
    return [(item["kind"], item["name"]) for entry in said.json for item in entry["left"]]


def test_nothing_was_ever_there(ek, folder) -> None:
    said = ek("inventory")
    assert said.code == 0
    assert "local: nothing left." in said.out
    assert ek("inventory", "--json").json == [{"stack": "local", "state": "destroyed", "items": [], "left": []}]
    assert not (folder / ".ekiben").exists(), "looking changes nothing"


def test_of_a_stack_that_is_up_all_is_listed_and_nothing_is_left(ek, state, pulumi_state) -> None:
    pulumi_state("lake")
    (state / "buckets" / "lake").mkdir(parents=True)
    (state / "buckets" / "lake" / "a.csv").write_bytes(b"x" * 2048)
    said = ek("inventory")
    assert said.code == 0
    assert "the stack is up" in said.out
    assert "ekiben:component=lake" in said.out
    assert "2.0 KiB" in said.out
    assert [item["kind"] for item in ek("inventory", "--json").json[0]["items"]] == ["resource", "bucket"]


def test_leftovers_of_a_destroyed_stack_exit_with_7(ek, state, pulumi_state) -> None:
    pulumi_state()
    (state / "station.db").write_bytes(b"not a database")
    (state / "buckets" / "lake").mkdir(parents=True)
    said = ek("inventory", "--json")
    assert said.code == 7
    assert kinds(said) == [("bucket", "lake"), ("file", "station.db")]
    assert "2 things are left" in ek("inventory", "--stack", "local").out


def test_what_was_to_be_retained_is_listed_and_no_leftover(ek, state, pulumi_state) -> None:
    pulumi_state()
    kept = state / "buckets" / "lake" / ".ekiben"
    kept.mkdir(parents=True)
    (kept / "retained.json").write_text(json.dumps({"tags": TAGS}))
    said = ek("inventory")
    assert said.code == 0
    assert "nothing left but what was to be retained (1)" in said.out
    item = ek("inventory", "--json").json[0]["items"][0]
    assert (item["retained"], item["tags"]) == (True, TAGS)


def test_each_stack_is_told_apart(ek, folder, state, pulumi_state) -> None:
    pulumi_state("lake", stack="spring.2")
    pulumi_state()
    (folder / ".ekiben" / ".pulumi" / "stacks" / "shop" / "removed.json.bak").write_text("{}")
    (folder / ".ekiben" / "local" / "station.log").write_text("")
    said = ek("inventory", "--json")
    assert said.code == 7
    assert [(entry["stack"], entry["state"], len(entry["left"])) for entry in said.json] == [
        ("local", "destroyed", 1),
        ("spring.2", "up", 0),
    ]
    assert ek("inventory", "--stack", "spring.2").code == 0


def test_a_state_that_cannot_be_read_is_an_error_and_no_proof(ek, folder, pulumi_state) -> None:
    pulumi_state()
    next((folder / ".ekiben" / ".pulumi").rglob("local.json")).write_text("{")
    said = ek("inventory")
    assert said.code == 3
    assert "local.json" in said.err


def test_a_station_is_found_alive_and_after_its_folder_was_deleted_by_hand(ek, folder, state, pulumi_state) -> None:
    pulumi_state()
    launch.ensure(state, project="shop", stack="local")
    pid = json.loads((state / "station.json").read_text())["pid"]
    assert ("process", str(pid)) in kinds(ek("inventory", "--json"))
    shutil.rmtree(state)
    try:
        said = ek("inventory", "--stack", "local", "--json")
        assert said.code == 7
        assert ("process", str(pid)) in kinds(said)
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="environments of processes are read from /proc")
def test_an_orphan_is_found_by_its_environment(ek, state, pulumi_state) -> None:
    pulumi_state()
    env = {**os.environ, "EKIBEN_MODEL_DIR": str(state / "runs" / "r1" / "model")}
    orphan = subprocess.Popen(["sleep", "60"], env=env)
    try:
        assert ("process", str(orphan.pid)) in kinds(ek("inventory", "--json"))
    finally:
        orphan.kill()
        orphan.wait()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="environments of processes are read from /proc")
def test_a_users_own_process_is_no_leftover(ek, state, pulumi_state, monkeypatch) -> None:
    pulumi_state()
    env = {**os.environ, "EKIBEN_PLATFORM": str(state / "platform.json"), "PWD": str(state)}
    own = subprocess.Popen(["sleep", "60"], env=env, cwd=state)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(state)])
    try:
        names = [name for kind, name in kinds(ek("inventory", "--json")) if kind == "process"]
        assert not {str(own.pid), str(other.pid)} & set(names)
    finally:
        for process in (own, other):
            process.kill()
            process.wait()


def test_sockets_are_looked_for_where_the_station_puts_them(ek, state, pulumi_state) -> None:
    from ekiben.station.parents import scratch

    pulumi_state()
    assert scratch(state.resolve()) == sockets_dir(state)
    assert ("sockets", sockets_dir(state).name) in kinds(ek("inventory", "--json"))


def test_a_bucket_that_the_station_leaves_is_told_from_one_that_was_forgotten(ek, state, pulumi_state) -> None:
    client = launch.ensure(state, project="shop", stack="local")
    for name, retain in (("lake", True), ("sea", True), ("pond", False)):
        client.request("PUT", f"/v1/resources/bucket/{name}", {"spec": {"retain": retain}, "tags": TAGS})
        (state / "buckets" / name / "a.csv").write_text("1")
    pulumi_state("lake")
    assert {i["name"]: i["retained"] for i in ek("inventory", "--json").json[0]["items"] if i["kind"] == "bucket"} == {
        "lake": True, "sea": True, "pond": False,
    }  # fmt: skip
    for name in ("lake", "pond"):
        client.request("DELETE", f"/v1/resources/bucket/{name}")
    pulumi_state()
    buckets = {i["name"]: i["retained"] for i in ek("inventory", "--json").json[0]["items"] if i["kind"] == "bucket"}
    assert buckets == {"lake": True, "sea": False}
    client.request("PUT", "/v1/resources/bucket/lake", {"spec": {"retain": True}, "tags": TAGS})
    buckets = {i["name"]: i["retained"] for i in ek("inventory", "--json").json[0]["items"] if i["kind"] == "bucket"}
    assert buckets["lake"] is False, "it is declared again, so a destroyed stack that has it has forgotten it"
