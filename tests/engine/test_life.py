"""The stack verbs under the real engine, on programs of a few lines."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ekiben.engine import stacks
from ekiben.engine.progress import Progress
from ekiben.errors import ProviderError, SpecError, Unavailable, WorkloadError
from ekiben.station import launch
from ekiben.station.client import Client
from tests.waiting import PATIENCE_S, until

from .conftest import CONFIG, Project

pytestmark = pytest.mark.engine

SMALL = """
lake = cloud.Storage("lake")
kept = cloud.Storage("kept", ek.StorageSpec(retain=True))
job = cloud.Training("job", ek.TrainingSpec(source="training_jobs/job", timeout_s=60), storage=lake)
hello = cloud.Function("hello", ek.FunctionSpec(source="functions/hello", on=(ek.Http(),)), uses=[lake])
ek.export(lake, kept, job, hello)
"""


def ops(result: stacks.Result) -> dict[str, str]:
    return {f"{step['type'].rpartition(':')[2]} {step['name']}": step["op"] for step in result.steps}


def quiet() -> Progress:
    return Progress(quiet=True)


def pid(state: Path) -> int:
    return int(json.loads((state / "station.json").read_text())["pid"])


def ended(process: int) -> None:
    """Wait until the process is gone: nothing of an engine, or of what it stopped, outlives it."""

    def gone() -> bool:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        return False

    until(gone, f"the process {process} is gone")


def test_d1_d2_d3_d5_a_stack_from_preview_to_destroy(project: Project) -> None:
    project.program(SMALL)
    state = project.state()

    planned = stacks.preview(project.root, "dev", progress=quiet())
    assert not state.exists(), "a preview touches nothing"
    assert set(ops(planned).values()) == {"create"}

    made = stacks.up(project.root, "dev", progress=quiet())
    assert ops(made) == ops(planned)
    parts = made.outputs["platform"]["parts"]
    assert sorted(parts) == ["hello", "job", "kept", "lake"]
    assert parts["lake"]["facts"]["uri"] == (state / "buckets" / "lake").as_uri()
    assert json.loads((state / "platform.json").read_text()) == made.outputs["platform"]
    token = (state / "token").read_text().strip()
    for held in (project.root / ".ekiben" / ".pulumi").rglob("*"):
        assert not held.is_file() or token.encode() not in held.read_bytes(), f"{held} holds the station's token"
    tags = Client(state).request("GET", "/v1/resources/function/hello")["tags"]
    assert tags == {"ekiben:platform": "small", "ekiben:stack": "dev", "ekiben:component": "hello"}

    assert stacks.up(project.root, "dev", progress=quiet()).changes == {}, "the second changes nothing"

    (state / "buckets" / "lake" / "rows.csv").write_text("1")
    project.program(SMALL.replace("timeout_s=60", "timeout_s=90"))
    (project.root / "training_jobs" / "job" / "train.py").write_text("print(2)\n")
    planned = stacks.preview(project.root, "dev", progress=quiet())
    assert ops(planned) == {"Object job-code": "replace", "Training job": "update"}
    changed = {step["name"]: step["changed"] for step in planned.steps}
    assert "spec.timeout_s" in changed["job"]
    assert Client(state).request("GET", "/v1/resources/training/job")["spec"]["spec"]["timeout_s"] == 60
    assert ops(stacks.up(project.root, "dev", progress=quiet())) == ops(planned)
    assert Client(state).request("GET", "/v1/resources/training/job")["spec"]["spec"]["timeout_s"] == 90
    assert len(list((state / "buckets" / "lake" / "code").glob("*.tar"))) == 3, "older code stays: models came from it"
    assert (state / "buckets" / "lake" / "rows.csv").read_text() == "1"

    (state / "buckets" / "kept" / "precious").write_text("1")
    process = pid(state)
    destroyed = stacks.destroy(project.root, "dev", progress=quiet())
    assert set(ops(destroyed).values()) == {"delete"}
    left = {path.relative_to(state).parts[:2] for path in state.rglob("*") if path.is_file()}
    assert left == {("buckets", "kept")}
    ended(process)
    assert stacks.destroy(project.root, "dev", progress=quiet()).changes == {}


def test_d4_what_was_deleted_or_killed_by_hand_is_found_and_mended(project: Project) -> None:
    project.program(SMALL.replace("retain=True", "retain=False"))
    state = project.state()
    stacks.up(project.root, "dev", progress=quiet())

    shutil.rmtree(state / "buckets" / "lake")
    found = ops(stacks.refresh(project.root, "dev", progress=quiet()))
    assert found == {"Bucket lake": "delete", "Object job-code": "delete", "Object hello-code": "delete"}
    mended = ops(stacks.up(project.root, "dev", progress=quiet()))
    assert mended == {"Bucket lake": "create", "Object job-code": "create", "Object hello-code": "create"}
    assert (state / "buckets" / "lake").is_dir()

    os.kill(pid(state), signal.SIGKILL)
    shutil.rmtree(state / "buckets" / "lake")
    seen = ops(stacks.preview(project.root, "dev", progress=quiet()))
    assert seen["Host station"] == "update"
    assert seen["Bucket lake"] == "update"
    assert not launch.running(state), "a preview starts nothing"
    assert ops(stacks.up(project.root, "dev", progress=quiet())) == seen, "up mends it without a refresh, too"
    assert launch.running(state)
    assert (state / "buckets" / "lake").is_dir()

    os.kill(pid(state), signal.SIGKILL)
    stacks.destroy(project.root, "dev", progress=quiet())
    assert not state.exists(), "a station that does not run is destroyed like any other"


def test_d7_two_stacks_on_one_machine_do_not_touch_each_other(project: Project) -> None:
    project.config("other")
    project.program('lake = cloud.Storage("lake")\nek.export(lake)')
    stacks.up(project.root, "dev", progress=quiet())
    stacks.up(project.root, "other", progress=quiet())
    dev, other = project.state("dev"), project.state("other")
    assert pid(dev) != pid(other)
    (dev / "buckets" / "lake" / "mine").write_text("1")
    before = (other / "platform.json").read_bytes()
    stacks.destroy(project.root, "dev", progress=quiet())
    assert not dev.exists()
    assert launch.running(other)
    assert (other / "platform.json").read_bytes() == before
    assert stacks.preview(project.root, "other", progress=quiet()).changes == {}


def test_plain_pulumi_works_and_leaves_the_checkout_clean(project: Project) -> None:
    salted = (Path(__file__).parents[2] / "Pulumi.local.yaml").read_text()
    project.config("local", salted)
    project.program('lake = cloud.Storage("lake")\nek.export(lake)')
    (project.root / ".gitignore").write_text(".ekiben/\n__pycache__/\n")
    for command in ("git init -q", "git add .", "git -c user.name=a -c user.email=a@b.c commit -qm all"):
        assert project.run(*command.split()).returncode == 0
    script = f"""
    set -euo pipefail
    export PATH={Path(sys.executable).parent}:"$PATH"
    ekiben up --json > up.json 2> /dev/null && rm up.json
    eval "$(ekiben env)"
    pulumi preview --stack local --non-interactive --expect-no-changes
    pulumi up --yes --stack local --non-interactive
    pulumi refresh --yes --stack local --non-interactive
    pulumi stack output platform --stack local --json > .ekiben/platform.json
    git status --porcelain > .ekiben/status
    pulumi destroy --yes --stack local --non-interactive
    """
    done = project.run("bash", "-c", script)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "warning" not in text, text
    assert json.loads((project.root / ".ekiben" / "platform.json").read_text())["stack"] == "local"
    assert (project.root / ".ekiben" / "status").read_text() == ""
    assert not project.state("local").exists()


REFUSED = {
    'cloud.Storage("lake", ek.StorageSpec(retian=True))': "StorageSpec: retian: there is no such field; did you mean 'retain'?",
    """
lake = cloud.Storage("lake", ek.StorageSpec(kms_key="mine"))
models = cloud.Registry("models", ek.RegistrySpec(mirror="required"), storage=lake)
logs = cloud.Storage("logs", ek.StorageSpec(expire_days={"old/": 7}))
ek.export(lake, models, logs)
""": "kms_key: local lacks a customer's encryption key.*mirror='required': local lacks.*expire_days: local lacks",
    """
lake = cloud.Storage("lake")
cloud.Function("hello", ek.FunctionSpec(source="functions/hello", on=(ek.Schedule("0 3 L * *"),)), uses=[lake])
""": "Schedule: cron='0 3 L",
}


@pytest.mark.parametrize("program", REFUSED)
def test_d8_d12_what_cannot_be_is_one_clear_message_and_nothing_is_made(project: Project, program: str) -> None:
    import re

    project.program(program)
    with pytest.raises(SpecError) as told:
        stacks.up(project.root, "dev", progress=quiet())
    assert re.search(REFUSED[program], str(told.value), re.DOTALL)
    assert "Traceback" not in str(told.value)
    assert "exited" not in str(told.value)
    assert not project.state().exists()


def test_errors_tell_whose_fault_they_are(project: Project) -> None:
    project.program("1 / 0")
    with pytest.raises(WorkloadError, match="ZeroDivisionError"):
        stacks.preview(project.root, "dev", progress=quiet())
    project.config("dev", CONFIG.replace("local", "nowhere"))
    done = project.ekiben("preview")
    assert done.returncode == 3
    assert "There is no provider 'nowhere'" in done.stderr
    project.config("dev")
    project.program('lake = cloud.Storage("lake")\nek.export(lake)')
    project.state().parent.mkdir(exist_ok=True)
    project.state().write_text("in the way")
    done = project.ekiben("up", "--json")
    assert done.returncode == 5, done.stderr
    assert "cannot use the state directory" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


SLOW = """
import os, pathlib, pulumi, time
lake = cloud.Storage("lake")
lake.uri.apply(lambda uri: pulumi.runtime.is_dry_run() or (pathlib.Path("../ready").write_text(str(os.getpid())), time.sleep(600)))
"""


def started(project: Project) -> subprocess.Popen[str]:
    """`ekiben up` of a program that hangs after its first resource, at the moment when it does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ekiben.cli", "up"], cwd=project.root, text=True, stderr=subprocess.PIPE
    )
    until(lambda: (project.root / "ready").exists() or process.poll() is not None, "the program hangs")
    assert process.poll() is None, process.stderr and process.stderr.read()
    return process


def test_d15_ctrl_c_ends_the_engine_and_the_next_up_goes_on(project: Project) -> None:
    project.program(SLOW)
    process = started(project)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "Stopping" in stderr
    assert "Traceback" not in stderr
    ended(int((project.root / "ready").read_text()))
    project.program('lake = cloud.Storage("lake")\nek.export(lake)')
    assert "Bucket lake" not in ops(stacks.up(project.root, "dev", progress=quiet())), (
        "it was made before the interrupt"
    )


def test_an_engine_that_was_killed_does_not_block_the_next_one(project: Project) -> None:
    project.program(SLOW)
    process = started(project)
    (lock,) = (project.root / ".ekiben" / ".pulumi" / "locks").rglob("*.json")
    with pytest.raises(Unavailable, match="another engine is at work"):
        stacks.up(project.root, "dev", progress=quiet())
    os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    ended(int((project.root / "ready").read_text()))
    project.program('lake = cloud.Storage("lake")\nek.export(lake)')
    stacks.up(project.root, "dev", progress=quiet())
    assert (project.state() / "platform.json").exists()


def test_another_passphrase_is_explained(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.config("dev", (Path(__file__).parents[2] / "Pulumi.local.yaml").read_text())
    project.program("")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "secret")
    with pytest.raises(ProviderError, match=r"passphrase.*unset PULUMI_CONFIG_PASSPHRASE") as told:
        stacks.preview(project.root, "dev", progress=quiet())
    assert "secret" not in str(told.value).replace("secrets", "")


def test_a_mistyped_stack_is_no_new_one(bare: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stacks.choose(bare.root) == "dev"
    for verb in ("up", "preview", "refresh", "destroy"):
        done = bare.ekiben(verb, "--stack", "dve")
        assert done.returncode == 3
        assert "no Pulumi.dve.yaml" in done.stderr
        assert "the stacks dev" in done.stderr
    for name in ("../x", "a b", "ü"):
        with pytest.raises(SpecError, match="no stack's name"):
            stacks.choose(bare.root, name)
    bare.config("prod")
    with pytest.raises(SpecError, match=r"no Pulumi\.local\.yaml .* dev, prod"):
        stacks.choose(bare.root)
    assert stacks.choose(bare.root, "prod") == "prod"
    monkeypatch.setenv("EKIBEN_STACK", "dev")
    assert stacks.choose(bare.root) == "dev"
    bare.state("gone").mkdir(parents=True)
    assert stacks.choose(bare.root, "gone") == "gone", "it can still be destroyed"
    assert sorted(path.name for path in bare.root.glob("Pulumi.*")) == [
        "Pulumi.dev.yaml", "Pulumi.prod.yaml", "Pulumi.yaml",
    ]  # fmt: skip
