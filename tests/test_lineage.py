"""Data by digest, code by commit, the environment by version."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ekiben.lineage import environment, git_state, snapshot


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    (root / "job").mkdir(parents=True)
    (root / "job" / "train.py").write_text("1")
    (root / "other.txt").write_text("1")
    (root / ".gitignore").write_text("*.log\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "x")
    return root


def test_a_snapshot_names_each_file_s_digest_and_one_for_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"\0" * 3_000_000)
    found = snapshot({"s3://lake/b": tmp_path / "b", "s3://lake/a": tmp_path / "a"})
    one, two = hashlib.sha256(b"1").hexdigest(), hashlib.sha256(b"\0" * 3_000_000).hexdigest()
    assert found["files"] == [
        {"uri": "s3://lake/a", "sha256": one, "bytes": 1},
        {"uri": "s3://lake/b", "sha256": two, "bytes": 3_000_000},
    ]
    assert found["sha256"] == hashlib.sha256(f"{one}  s3://lake/a\n{two}  s3://lake/b\n".encode()).hexdigest()
    assert snapshot({"s3://lake/a": tmp_path / "a", "s3://lake/b": tmp_path / "b"}) == found
    assert snapshot({"s3://lake/a": tmp_path / "a", "s3://lake/c": tmp_path / "b"})["sha256"] != found["sha256"]
    (tmp_path / "a").write_bytes(b"2")
    assert snapshot({"s3://lake/b": tmp_path / "b", "s3://lake/a": tmp_path / "a"})["sha256"] != found["sha256"]


def test_a_snapshot_of_nothing_is_empty() -> None:
    assert snapshot({}) == {"sha256": hashlib.sha256(b"").hexdigest(), "files": []}


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        snapshot({"file:///x": tmp_path / "x"})


def test_a_clean_folder_is_its_commit(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert git_state(repository / "job") == {"commit": commit, "dirty": False}
    (repository / "other.txt").write_text("changed, but elsewhere")
    (repository / "job" / "run.log").write_text("ignored")
    assert git_state(repository / "job") == {"commit": commit, "dirty": False}


@pytest.mark.parametrize("change", ["edited", "new", "deleted", "staged"])
def test_any_change_in_the_folder_is_dirty(change: str, repository: Path) -> None:
    job = repository / "job"
    if change == "deleted":
        (job / "train.py").unlink()
    else:
        (job / ("new é.py" if change == "new" else "train.py")).write_text("2")
    if change == "staged":
        git(repository, "add", "-A")
    found = git_state(job)
    assert (len(found["commit"]), found["dirty"]) == (40, True)


def test_no_repository_no_commit_no_folder_is_no_commit(tmp_path: Path) -> None:
    unknown = {"commit": "", "dirty": True}
    assert git_state(tmp_path) == unknown
    assert git_state(tmp_path / "absent") == unknown
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) == unknown


def test_without_git_there_is_no_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    assert git_state(repository) == {"commit": "", "dirty": True}


def test_inside_a_hook_it_is_still_the_folder_s_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "another"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert git_state(repository) == {"commit": commit, "dirty": False}


def test_the_environment_says_what_it_is_and_not_whose(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text("x==1\n")
    found = environment(lock)
    assert found["python"] == f"{platform.python_implementation()} {platform.python_version()}"
    assert found["machine"] == platform.machine()
    assert found["os"]
    assert found["cpus"] >= 1
    assert isinstance(found["gpus"], list)
    assert {"pytest", "pydantic", "typing-extensions"} <= set(found["packages"])
    assert list(found["packages"]) == sorted(found["packages"])
    assert set(found["unpublished"]) <= set(found["packages"])
    assert found["lock_sha256"] == hashlib.sha256(b"x==1\n").hexdigest()
    assert environment()["lock_sha256"] == environment(tmp_path / "absent")["lock_sha256"] == ""
    text = json.dumps(found)
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in text


def test_the_environment_is_looked_up_once_and_cannot_be_spoiled() -> None:
    first = environment()
    first["packages"].clear()
    assert environment()["packages"]


def test_gpus_and_driver_come_from_nvidia_smi(tmp_path: Path) -> None:
    """As that prints them; and one that fails, or prints nonsense, is no GPU."""
    tool = tmp_path / "nvidia-smi"
    program = "import json; from ekiben.lineage import environment; e = environment(); print(json.dumps([e['gpus'], e['driver']]))"

    def run(script: str) -> object:
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        return json.loads(
            subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, check=True).stdout
        )

    gpu = {"name": "NVIDIA H200", "memory_mib": 143771}
    assert run("echo 'NVIDIA H200, 143771, 580.1'; echo 'NVIDIA H200, 143771, 580.1'") == [[gpu, gpu], "580.1"]
    assert run("echo 'Tesla, [N/A], 580.1'") == [[{"name": "Tesla", "memory_mib": 0}], "580.1"]
    assert run("echo 'no devices were found'") == [[], ""]
    assert run("exit 9") == [[], ""]
