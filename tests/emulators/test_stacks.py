"""Stacks that run on the emulator: their config says so, and they meet it and nothing else."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from ekiben.cli.platform import keep, runtime
from ekiben.emulators import stacks
from ekiben.emulators.aws import ensure, running, stop
from ekiben.emulators.kubernetes.layout import state_dir as cluster_state_dir
from ekiben.errors import SpecError, Unavailable
from ekiben.records import Part, Platform

CONFIG = "config:\n  ekiben:provider: {}\n  ekiben:emulate: {}\n"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "Pulumi.yaml").write_text("name: small\nruntime: python\n")
    yield tmp_path.resolve()
    stop(stacks.state_dir(tmp_path))


def config(root: Path, stack: str, provider: str = "aws", emulate: object = "true") -> None:
    (root / f"Pulumi.{stack}.yaml").write_text(CONFIG.format(provider, emulate))


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("", False),
        ("config:\n", False),
        ("config:\n  ekiben:provider: aws\n", False),
        ("config:\n  ekiben:provider: aws\n  ekiben:emulate: false\n", False),
        ("config:\n  ekiben:provider: aws\n  ekiben:emulate: true\n", True),
        ('config:\n  ekiben:provider: aws\n  ekiben:emulate: "true"\n', True),
    ],
)
def test_the_config_says_it(root: Path, text: str, is_one: bool) -> None:
    assert not stacks.emulated(root, "dev")
    (root / "Pulumi.dev.yaml").write_text(text)
    assert bool(stacks.emulated(root, "dev")) is is_one


def test_of_several_providers_the_config_says_which_are_emulated(root: Path) -> None:
    config(root, "dev", "local", "[kubernetes, aws, aws]")
    assert stacks.emulated(root, "dev") == ("aws", "kubernetes")
    (root / "Pulumi.dev.yaml").write_text("config:\n  ekiben:emulate:\n    - aws\n")
    assert stacks.emulated(root, "dev") == ("aws",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CONFIG.format("local", "true"), "no emulator of 'local'"),
        (CONFIG.format("aws", "perhaps"), "true or false"),
        (CONFIG.format("aws", "[aws, local]"), "no emulator of 'local'"),
        (CONFIG.format("aws", "[[aws]]"), r"no emulator of \['aws'\]"),
        ("config: [ekiben:provider\n", "no YAML"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(root: Path, text: str, said: str) -> None:
    (root / "Pulumi.dev.yaml").write_text(text)
    with pytest.raises(SpecError, match=said):
        stacks.emulated(root, "dev")


def test_a_stack_of_the_real_cloud_is_refused_in_the_emulators_shell(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config(root, "prod", emulate="false")
    assert stacks.enter(root, "prod", engine=True) == ()
    assert not running(stacks.state_dir(root))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "emulated")
    with pytest.raises(SpecError, match="'prod' runs on AWS"):
        stacks.enter(root, "prod", engine=True)
    config(root, "here", "local", "false")
    stacks.enter(root, "here", engine=True)


def test_an_emulated_stack_meets_its_emulator_whatever_the_user_has_set(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config(root, "dev")
    keep(root, "dev", Platform(project="small", stack="dev", parts={"lake": LAKE}).to_dict())
    monkeypatch.chdir(root)
    for name, value in {"AWS_PROFILE": "real", "AWS_ENDPOINT_URL_S3": "https://s3.example.com"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with pytest.raises(Unavailable, match="has forgotten all it held"):
        runtime("dev")
    assert stacks.enter(root, "dev", engine=True) == ("aws",)
    server = stacks.found(root)
    assert server is not None
    assert os.environ["AWS_ENDPOINT_URL"] == server.url
    assert stacks.foreign(os.environ) == sorted(name for name in server.environment)
    plugins = Path(os.environ["PULUMI_HOME"]) / "plugins"
    assert plugins.is_relative_to(root / stacks.DIR)
    assert [path.name.partition("-v")[0] for path in plugins.glob("resource-aws-v*[0-9]")] == ["resource-aws"]
    stacks.made(root, "dev")
    assert stacks.enter(root, "dev", engine=True) == ()
    assert runtime("dev").names("storage") == ["lake"]
    # Another one, whoever started it, holds nothing of the stack.
    stop(stacks.state_dir(root))
    with pytest.raises(Unavailable, match="has forgotten all it held"):
        runtime("dev")
    assert ensure(stacks.state_dir(root)).born != server.born
    with pytest.raises(Unavailable, match="has forgotten all it held.*ekiben up"):
        runtime("dev")
    assert stacks.enter(root, "dev", engine=True) == ("aws",)


@contextmanager
def a_cluster(root: Path, env: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cluster of this user seems to run; the file that tells it from another one."""
    env.setenv("XDG_STATE_HOME", str(root / "state"))
    folder = cluster_state_dir()
    folder.mkdir(parents=True)
    (folder / "kubeconfig").write_text("one")
    (folder / "cluster.json").write_text(json.dumps({"pid": os.getpid(), "born": "x"}))
    with (folder / "lock").open("w") as lock:
        lock.write(str(os.getpid()))
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / "kubeconfig"


def test_a_stack_on_kubernetes_meets_the_cluster_of_this_user_and_not_the_one_of_kubeconfig(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config(root, "dev", "kubernetes")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setenv("XDG_STATE_HOME", str(root / "state"))
    monkeypatch.setenv("KUBECONFIG", "/of/a/real/cluster")
    with pytest.raises(Unavailable, match="does not run.*ekiben emulate kubernetes"):
        stacks.enter(root, "dev")
    with a_cluster(root, monkeypatch) as kubeconfig:
        assert stacks.enter(root, "dev") == ("kubernetes",)
        assert os.environ["KUBECONFIG"] == str(kubeconfig)
        assert json.loads(os.environ[stacks.BENEATH])["ekiben:registry"].startswith("http://")
        stacks.made(root, "dev")
        assert stacks.enter(root, "dev") == ()
        kubeconfig.write_text("of one that began anew")
        assert stacks.enter(root, "dev") == ("kubernetes",)
    assert stacks.alive(root, "kubernetes") == ""
    config(root, "theirs", "kubernetes", "false")
    assert stacks.enter(root, "theirs") == ()
    assert stacks.BENEATH not in os.environ, "what is beneath one stack is not beneath another"


def test_a_stack_on_two_emulators_meets_both_and_is_told_which_has_begun_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config(root, "dev", "local", "[aws, kubernetes]")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with a_cluster(root, monkeypatch) as kubeconfig:
        with pytest.raises(Unavailable, match="^aws: .* has forgotten all it held"):
            stacks.enter(root, "dev")
        server = ensure(stacks.state_dir(root))
        assert stacks.enter(root, "dev") == ("aws", "kubernetes")
        assert os.environ["KUBECONFIG"] == str(kubeconfig)
        assert os.environ["AWS_ENDPOINT_URL"] == server.url
        stacks.made(root, "dev")
        assert stacks.enter(root, "dev") == ()
        kubeconfig.write_text("of one that began anew")
        assert stacks.enter(root, "dev") == ("kubernetes",)
    with pytest.raises(Unavailable, match="^kubernetes: .* does not run"):
        stacks.enter(root, "dev")


LAKE = Part(name="lake", kind="storage", provider="aws", ref="b", facts={"region": "us-east-1", "uri": "s3://b"})


def test_the_record_of_a_stack_is_kept_and_taken_away(root: Path) -> None:
    path = root / ".ekiben" / "dev" / "platform.json"
    record = Platform(project="small", stack="dev", parts={"lake": LAKE})
    keep(root, "dev", record.to_dict())
    assert Platform.from_json(path.read_text()) == record
    kept = path.stat().st_ino
    keep(root, "dev", record.to_dict())
    assert path.stat().st_ino == kept
    for _ in range(2):
        keep(root, "dev", None)
    assert not path.parent.exists()


def test_the_verb_starts_finds_and_stops_it(root: Path) -> None:
    def verb(*words: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "ekiben.cli", "emulate", "aws", *words], cwd=root, text=True, capture_output=True,
            timeout=120, env={**os.environ, **more}, check=True,
        )  # fmt: skip
        return done.stdout

    assert "does not run" in verb("--status")
    printed = verb(AWS_PROFILE="real", AWS_SESSION_TOKEN="old").splitlines()
    assert {"unset AWS_PROFILE", "unset AWS_SESSION_TOKEN"} < set(printed)
    told = json.loads(verb("--status", "--json"))
    assert f"export AWS_ENDPOINT_URL={told['url']}" in printed
    assert told["environment"]["AWS_ENDPOINT_URL"] == told["url"]
    assert json.loads(verb("--stop", "--json"))["running"] is False
    assert not running(stacks.state_dir(root))
    verb("--stop")


PROGRAM = """
import ekiben as ek
cloud = ek.provider()
lake = cloud.Storage("lake")
ek.export(lake, cloud.Registry("models", storage=lake))
"""


@pytest.mark.engine
def test_what_an_emulator_that_has_ended_held_is_made_again(root: Path) -> None:
    config(root, "dev")
    (root / "__main__.py").write_text(PROGRAM)

    def ekiben(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "ekiben.cli", *words, "--stack", "dev"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    ekiben("up")
    first = json.loads((root / ".ekiben" / "dev" / "platform.json").read_text())["parts"]["lake"]["facts"]["uri"]
    stop(stacks.state_dir(root))
    # Somebody starts the next one before `up` does: it is empty nevertheless.
    ensure(stacks.state_dir(root))
    assert "has forgotten all it held" in ekiben("models", code=5)
    assert "has forgotten all of it" in (said := ekiben("up"))
    assert "create" in said
    url = ensure(stacks.state_dir(root)).url
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    there = {one["Name"] for one in boto3.client("s3", endpoint_url=url, **keys).list_buckets()["Buckets"]}
    again = json.loads((root / ".ekiben" / "dev" / "platform.json").read_text())["parts"]["lake"]["facts"]["uri"]
    assert {again.removeprefix("s3://")} == there, first
    ekiben("models")
