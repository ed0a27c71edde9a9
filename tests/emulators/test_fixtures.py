"""ekiben.testing, as somebody else's tests use it: in a folder without a conftest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ekiben.testing import EmulatedAws
from tests.waiting import alive, until

from .test_functions import call, make
from .test_training import prepared, submit

LIGHT = """
import sys
def test_nothing_heavy_is_there_before_it_is_asked_for():
    heavy = {"boto3", "moto", "pulumi", "pydantic", "ekiben.emulators"}
    assert not heavy & set(sys.modules), sorted(heavy & set(sys.modules))
"""
THEIRS = """
import os, pytest

@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_an_empty_one(emulated_aws, turn):
    assert "AWS_PROFILE" not in os.environ
    import boto3
    s3 = boto3.client("s3")
    assert s3.list_buckets()["Buckets"] == []
    s3.create_bucket(Bucket="lake")
    assert emulated_aws.s3.list_buckets()["Buckets"][0]["Name"] == "lake"

@pytest.mark.parametrize("turn", [1, 2])
def test_the_session_has_one(emulated_aws_session, turn):
    import boto3
    s3 = boto3.client("s3")
    assert len(s3.list_buckets()["Buckets"]) == turn - 1
    s3.create_bucket(Bucket=f"lake-{turn}")

def test_afterwards_the_environment_is_the_one_of_the_session():
    assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
"""


def test_they_are_there_by_themselves(tmp_path: Path) -> None:
    (tmp_path / "test_1_light.py").write_text(LIGHT)
    (tmp_path / "test_2_theirs.py").write_text(THEIRS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"], cwd=tmp_path, text=True,
        capture_output=True, timeout=200, env={**os.environ, "AWS_PROFILE": "theirs"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout


def test_nothing_runs_on_after_a_reset(emulated_aws: EmulatedAws, tmp_path: Path) -> None:
    """A function at work, an event that waits for its next try, and a training job end with the test that they belong to."""
    write = "import os, time\ndef handler(event, context):\n    open(event, 'a').write(f'{os.getpid()} ')\n"
    make(emulated_aws, "busy", write + "    time.sleep(60)\n", Timeout=100)
    make(emulated_aws, "failing", write + "    raise ValueError\n")
    for name in ("busy", "failing"):
        call(emulated_aws, name, str(tmp_path / name), InvocationType="Event")
    bucket = prepared(emulated_aws)
    submit(emulated_aws, bucket, f"echo $$ >{tmp_path}/job; exec sleep 60")
    found = [until(lambda name=name: pids(tmp_path / name)) for name in ("busy", "failing", "job")]
    emulated_aws.reset()
    tries = pids(tmp_path / "failing")
    until(lambda: not any(alive(pid) for each in found for pid in each), "all are gone")
    assert (
        emulated_aws.s3.list_buckets()["Buckets"] == emulated_aws.client("lambda").list_functions()["Functions"] == []
    )
    prepared(emulated_aws)
    make(emulated_aws, "failing", write)
    call(emulated_aws, "failing", str(tmp_path / "after"))
    assert pids(tmp_path / "failing") == tries
    assert len(pids(tmp_path / "after")) == 1


def pids(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split()] if path.exists() else []
