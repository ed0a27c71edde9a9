"""Which platform a verb is about."""

from __future__ import annotations

import os
import shutil

import pytest


def test_no_platform_says_what_to_do(ek, folder) -> None:
    said = ek("status")
    assert said.code == 3
    assert "ekiben up" in said.err
    assert "EKIBEN_PLATFORM" in said.err
    assert not (folder / ".ekiben").exists()


def test_it_is_found_from_a_folder_below(ek, platform, folder, monkeypatch) -> None:
    below = folder / "functions" / "retrain"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert ek("status", "--json").json["stack"] == "local"


def test_a_folder_in_a_bucket_is_no_project(ek, platform, folder, monkeypatch) -> None:
    inside = folder / ".ekiben" / "local" / "buckets" / "lake" / ".ekiben" / "locks"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside.parents[1])
    assert ek("status", "--json").json["project"] == "shop"


def test_the_only_stack_there_is_taken(ek, platform, folder) -> None:
    (folder / ".ekiben" / "local").rename(folder / ".ekiben" / "spring")
    (folder / ".ekiben" / ".pulumi").mkdir()
    assert ek("status").code == 0


def test_of_several_stacks_it_must_be_said_which(ek, platform, folder, monkeypatch) -> None:
    (folder / ".ekiben" / "local").rename(folder / ".ekiben" / "spring")
    shutil.copytree(folder / ".ekiben" / "spring", folder / ".ekiben" / "autumn")
    said = ek("status")
    assert said.code == 3
    assert "autumn, spring" in said.err
    assert "--stack" in said.err
    assert ek("status", "--stack", "spring").code == 0
    monkeypatch.setenv("EKIBEN_STACK", "autumn")
    assert ek("status").code == 0


def test_the_variable_may_hold_the_record_or_name_its_file(ek, platform, folder, monkeypatch, tmp_path) -> None:
    path = tmp_path / "platform.json"
    shutil.move(folder / ".ekiben" / "local" / "platform.json", path)
    monkeypatch.setenv("EKIBEN_PLATFORM", str(path))
    assert ek("status").code == 0
    monkeypatch.setenv("EKIBEN_PLATFORM", path.read_text())
    assert ek("status").code == 0
    said = ek("status", "--stack", "local")
    assert said.code == 3, "--stack goes before the variable"


@pytest.mark.parametrize(
    ("text", "word"),
    [("{", "JSON"), ('{"project": "a"}', "stack"), ('{"project": "a", "stack": "b", "zebra": 1}', "zebra")],
)
def test_a_broken_record_is_named(ek, platform, folder, text, word) -> None:
    (folder / ".ekiben" / "local" / "platform.json").write_text(text)
    said = ek("status")
    assert said.code == 3
    assert word in said.err


@pytest.mark.parametrize("name", ["../../etc", "a/b", ".pulumi", "a b", "-x", "naïve", ""])
def test_a_stack_name_stays_in_the_folder(ek, platform, name) -> None:
    said = ek("status", f"--stack={name}")
    assert said.code == (0 if not name else 3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_record_that_may_not_be_read(ek, platform, folder) -> None:
    (folder / ".ekiben" / "local" / "platform.json").chmod(0)
    said = ek("status")
    assert said.code == 3
    assert "Permission denied" in said.err


def test_a_folder_that_is_gone(ek, tmp_path, monkeypatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    said = ek("status")
    assert said.code == 3
    assert "current folder" in said.err
