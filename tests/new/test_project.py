"""From a wheel to a project that works: installed elsewhere, written, locked, tested, demonstrated, and taken through its CI."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from ekiben.cli import new
from ekiben.packing.source import cache_dir
from tests.fakes.forge import Forge, forge
from tests.new.test_ci import GITHUB, GITLAB

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
INSIDE = "ekiben/template/"


def build(kind: str, source: Path, into: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(into)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    (made,) = into.iterdir()
    return made


class Project(NamedTuple):
    """A project that `ekiben new` of an installed wheel wrote, outside this repository."""

    folder: Path
    wheel: Path

    def sh(self, script: str, *, status: int = 0, **environment: str) -> str:
        """What a script says, run as CI runs it. Fails the test when it ends with another status."""
        # Neither is what `make`, which may be running this, tells the makes below it.
        ours = ("EKIBEN_", "PULUMI_", "GITHUB_", "MAKE", "MFLAGS")
        keep = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        # No tool of this repository's environment, and the versions that it was tested with: they are in uv's cache.
        path = [each for each in keep.pop("PATH").split(os.pathsep) if Path(each) != BIN]
        tools = self.wheel.parents[1] / "tools"
        env = {
            **{name: value for name, value in keep.items() if name not in ("VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")},
            "PATH": os.pathsep.join([str(tools), *path]),
            # What mypy knows of the libraries, by their contents.
            "MYPY_CACHE_DIR": str(cache_dir() / "mypy-new"),
            "PYTHON": sys.executable,
            "UV_FIND_LINKS": str(self.wheel.parent),
            "UV_CONSTRAINT": str(ROOT / "requirements.lock"),
            **environment,
        }
        with subprocess.Popen(
            ["bash", "-e", "-c", script], cwd=self.folder, env=env, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                said, complained = process.communicate()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == status, f"{script}\n{said}\n{complained}"
        return said


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    wheel = build("wheel", ROOT, elsewhere / "dist")
    (elsewhere / "tools").mkdir()
    uv = elsewhere / "tools" / "uv"
    # To compile all that is installed takes a processor a minute; what is imported is compiled then.
    uv.write_text(
        f'#!/bin/bash\nexec {shutil.which("uv") or BIN / "uv"} "${{@/#--compile-bytecode/--no-compile-bytecode}}"\n'
    )
    uv.chmod(0o755)
    alone = Project(elsewhere, wheel)
    # The core, without an extra: that is all it takes to write a project.
    alone.sh(
        f'uv venv -q --python "{sys.executable}" installed && uv pip install -q --python installed/bin/python ekiben'
    )
    assert alone.sh("installed/bin/ekiben new shop") == "cd shop && make test\nmake demo\n"
    return Project(elsewhere / "shop", wheel)


@pytest.fixture(scope="module")
def github() -> Any:
    return yaml.safe_load(GITHUB.read_text("utf-8"))["jobs"]


@pytest.fixture(scope="module")
def gitlab() -> Any:
    return yaml.safe_load(GITLAB.read_text("utf-8"))


@pytest.fixture
def there() -> Iterator[Forge]:
    with forge() as server:
        yield server


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_wheel_and_source_carry_what_the_checkout_has(project: Project, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("ekiben-*")
    for wheel in (project.wheel, build("wheel", unpacked, tmp_path / "again")):
        with zipfile.ZipFile(wheel) as archive:
            carried = {
                name.removeprefix(INSIDE): archive.read(name) for name in archive.namelist() if name.startswith(INSIDE)
            }
        assert carried == {path: source.read_bytes() for path, source in new.template().items()}


def test_what_the_wheel_writes_is_what_the_checkout_writes(project: Project, tmp_path: Path) -> None:
    new.write(tmp_path / "shop")
    assert {path: files(project.folder).get(path) for path in new.template()} == files(tmp_path / "shop")


def test_its_own_ci_lints_and_tests_it(project: Project, github: Any) -> None:
    said = [project.sh(step["run"]) for step in github["test"]["steps"] if "run" in step]
    assert "no issues found" in said[0]
    assert re.search(r"^tests/example/test_platform.py \.", said[1], re.MULTILINE), "it stood up"
    assert re.fullmatch(r"=+ \d+ passed in .*", said[1].splitlines()[-1]), "none failed, none was skipped, none warned"
    lock = (project.folder / "requirements.lock").read_text("utf-8")
    assert "make lock" in lock.splitlines()[1]
    assert str(project.folder.parent) not in lock, "a lock names no machine's folders"
    assert re.search(r"^ekiben==\S+ \\\n    --hash=sha256:", lock, re.MULTILINE)


# Ctrl-C in the middle of the training, as a terminal sends it: to the demo and to the command that it shows.
INTERRUPTED = """
set -m
.venv/bin/python infra/demo.py >said 2>&1 &
until grep -q '^trees 10/' said; do kill -0 $! || break; sleep 0.02; done
kill -INT -- -$!
wait $! || status=$?
cat said
exit $status
"""


def test_the_demo_can_be_interrupted_repeated_and_destroyed(project: Project) -> None:
    said = project.sh(INTERRUPTED, status=130)
    assert "`make demo` goes on from here; `make clean-demo` removes it all." in said.splitlines()[-1]
    shown = project.sh("make demo")
    for words in (
        "The files are there.",
        "employment:1 is approved.",
        '"decision": "employed"',
        "bad.csv row 2: AGEP '-7' is not from 0 to 99.",
        "bad.csv row 3: MAR 'yes' is missing or not a number",
        "Done in",
    ):
        assert words in shown, shown
    assert shown.index("bad.csv row 2") < shown.rindex("employment:1  100 %")

    again = project.sh("make demo")
    assert "nothing to do but ask it" in again
    assert "$ ekiben up" not in again

    rebuilt = json.loads(project.sh(".venv/bin/ekiben rebuild employment:1 --json"))
    assert rebuilt["verdict"] == "identical", rebuilt

    assert "nothing left" in project.sh("make clean-demo")
    left = sorted(path.name for path in project.folder.glob(".ekiben/*"))
    assert left in ([], [".pulumi"])


def test_a_pull_request_on_github_gets_one_comment(project: Project, github: Any, there: Forge, tmp_path: Path) -> None:
    outputs, summary = tmp_path / "outputs", tmp_path / "summary"
    given = {"GITHUB_OUTPUT": str(outputs), "GITHUB_STEP_SUMMARY": str(summary)}
    (step,) = [step for step in github["stack"]["steps"] if "run" in step]
    said = project.sh(step["run"], STACK="local", **given)
    assert "::notice title=up is skipped::The stack local is a machine of your own" in said
    assert outputs.read_text() == "name=local\nprovider=local\n"

    known = {
        "needs.stack.outputs.name": "local",
        "github.event.pull_request.head.sha": "4f2c",
        "vars.PULUMI_BACKEND_URL": "",
        "github.token": there.github["GITHUB_TOKEN"],
        "github.event.pull_request.number": there.github["PULL_REQUEST"],
    }
    steps = [step for step in github["preview"]["steps"] if "run" in step]
    for step in [*steps, steps[-1]]:
        values = {name: known[text[3:-2].strip()] for name, text in step.get("env", {}).items()}
        address = {name: there.github[name] for name in ("GITHUB_API_URL", "GITHUB_REPOSITORY")}
        project.sh(step["run"], **given, **address, **values)
    assert [line.split()[0] for line in there.seen] == ["GET", "POST", "GET", "PATCH"]
    check(there.comments[1], "4f2c")
    assert summary.read_text().startswith("<!-- ekiben preview of local -->\n### Preview of `local`: 13 to create\n")


def test_a_merge_request_on_gitlab_gets_one_comment(project: Project, gitlab: Any, there: Forge) -> None:
    def job(name: str, **more: str) -> str:
        script = [*gitlab[".stack"]["before_script"], *gitlab[name]["script"]]
        return project.sh("\n".join(script), EKIBEN_STACK="local", CI_COMMIT_SHA="4f2c", **more)

    assert "13 to create" in job("preview", **there.gitlab)
    check(there.comments[1], "4f2c")
    assert "Skipped: the stack local is a machine of your own" in job("up")
    assert not (project.folder / ".ekiben" / "local").exists(), "neither a preview nor what is skipped starts a station"


def check(comment: str, commit: str) -> None:
    """What a reviewer sees."""
    assert "| create | Endpoint | employment-api |  |" in comment
    assert "Cost: nothing. It runs on a machine of your own, and nobody bills it." in comment
    assert comment.rstrip().endswith(f"Of commit {commit}.")


@pytest.mark.parametrize(
    ("schema", "path"), [("github-workflows", GITHUB), ("gitlab-ci", GITLAB)], ids=["github", "gitlab"]
)
def test_the_ci_files_are_what_their_schemas_say(project: Project, schema: str, path: Path) -> None:
    transform = "--data-transform gitlab-ci" if schema == "gitlab-ci" else ""
    tool = "env -u UV_CONSTRAINT uv tool run -q --from check-jsonschema==0.39.0 check-jsonschema"
    assert "ok" in project.sh(
        f"{tool} --builtin-schema vendor.{schema} {transform} {path.relative_to(ROOT / 'template')}"
    )
