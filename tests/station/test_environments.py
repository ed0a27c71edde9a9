"""The environment of a bento: which interpreter, made when, imported what; and workers that hang after a fork."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import zipfile
from importlib.metadata import version as installed
from pathlib import Path

import pytest

from ekiben.errors import ModelFailed, SpecError
from ekiben.folder import FRESH_S
from ekiben.specs import EndpointSpec
from ekiben.station.bentos import Plan
from ekiben.station.environments import interpreter, modules, requirements, unmet
from ekiben.station.parents import Parents
from ekiben.station.workers import Pool

from .conftest import SERVICE, bento

LOCKED = f"""\
# locked
aiohttp=={installed("aiohttp")} \\
    --hash=sha256:{"0" * 64} \\
    --hash=sha256:{"1" * 64}
    # via somebody
packaging  # any
nothing-of-this-name==1.0 ; python_version < '3'
--index-url https://example.com/simple
"""


def test_the_interpreter_at_hand_is_used_when_it_has_every_pin(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text(LOCKED)
    assert interpreter(lock, cache=tmp_path) == Path(sys.executable)
    assert interpreter(tmp_path / "none.txt", cache=tmp_path) == Path(sys.executable)


@pytest.mark.parametrize(
    "line", ["aiohttp==0.0.1", "nothing-of-this-name", "aiohttp @ https://example.com/aiohttp.whl"]
)
def test_a_pin_that_is_not_met_is_named(line: str) -> None:
    assert unmet(requirements(LOCKED)) == []
    assert [item.replace(" ", "") for item in unmet(requirements(LOCKED + line))] == [line.replace(" ", "")]


def test_a_line_that_is_no_requirement_is_named() -> None:
    with pytest.raises(SpecError, match="'aiohttp=3'"):
        requirements("packaging\naiohttp=3")


def wheel(folder: Path) -> None:
    with zipfile.ZipFile(folder / "ekiben_probe-1.0-py3-none-any.whl", "w") as file:
        file.writestr("ekiben_probe.py", "VALUE = 7\n")
        about = "ekiben_probe-1.0.dist-info"
        file.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: ekiben-probe\nVersion: 1.0\n")
        file.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{about}/RECORD", "ekiben_probe.py,,\n")


def test_another_environment_is_made_once_and_whole(tmp_path: Path) -> None:
    wheel(tmp_path)
    lock = tmp_path / "requirements.txt"
    lock.write_text(f"--no-index\n--find-links {tmp_path}\nekiben-probe==1.0\n")
    python = interpreter(lock, cache=tmp_path / "cache")
    assert python.is_relative_to(tmp_path / "cache" / "environments")
    made = python.stat().st_ctime_ns
    assert interpreter(lock, cache=tmp_path / "cache") == python
    assert python.stat().st_ctime_ns == made
    assert list(python.parents[1].glob("lib/python*/site-packages/ekiben_probe.py"))
    lent = "import httptools, orjson, uvloop; print(httptools.__version__)"
    said = subprocess.run([str(python), "-c", lent], capture_output=True, text=True, check=True).stdout
    assert said.strip() == installed("httptools")

    lock.write_text(f"--no-index\n--find-links {tmp_path}\nekiben-probe==2.0\n")
    with pytest.raises(ModelFailed, match=r"(?s)uv pip.*ekiben-probe==2\.0"):
        interpreter(lock, cache=tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache" / "environments").iterdir()] == [python.parents[1].name]


def test_what_a_killed_station_left_half_made_is_swept_unless_its_installer_is_still_at_work(tmp_path: Path) -> None:
    wheel(tmp_path)
    lock = tmp_path / "requirements.txt"
    lock.write_text(f"--no-index\n--find-links {tmp_path}\nekiben-probe==1.0\n")
    home = tmp_path / "environments"
    for name, age_s in ((".left.1", FRESH_S + 1), (".held.2", FRESH_S + 1), (".new.3", 0)):
        (home / name / "lib").mkdir(parents=True)
        then = home.stat().st_mtime - age_s
        os.utime(home / name, (then, then))
    held = os.open(home / ".held.2", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        python = interpreter(lock, cache=tmp_path)
    finally:
        os.close(held)
    assert sorted(path.name for path in home.iterdir()) == [".held.2", ".new.3", python.parents[1].name]


def test_the_parent_imports_what_the_source_imports_but_for_its_own_and_the_standard_librarys(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "service.py").write_text(
        "import json, numpy as np\nfrom sklearn.metrics import f1_score\nfrom . import here\nimport features.age\n"
        "def later():\n    import pandas\n"
    )
    (tmp_path / "features" / "age.py").write_text("import xgboost.sklearn\n")
    (tmp_path / "broken.py").write_text("import (\n")
    assert modules(tmp_path) == ["numpy", "pandas", "sklearn.metrics", "xgboost.sklearn"]
    assert modules(tmp_path / "nowhere") == []


def test_a_forked_worker_that_hangs_is_killed_and_a_fresh_one_serves(tmp_path: Path) -> None:
    hang = "import sys, time\nif 'packaging.version' in sys.modules: time.sleep(3600)\n"
    bento(tmp_path, service=hang + SERVICE)
    spec = EndpointSpec(model="probe@champion", bento="x")

    async def plan() -> Plan:
        return Plan(tmp_path / "bento", Path(sys.executable), ["packaging.version"], "")

    async def run() -> None:
        parents = Parents(tmp_path)
        pool = Pool(
            "api@v1", parents, tmp_path / "worker.log", plan=plan, spec=lambda: spec, has_room=lambda: True,
            minimum=lambda: 0, changed=lambda reason: None, forked_start_s=0.5,
        )  # fmt: skip
        assert pool.take() is None
        worker = await pool.wait()
        request = b'POST /predict HTTP/1.1\r\nHost: worker\r\nContent-Length: 8\r\n\r\n{"x": 2}'
        assert (await worker.upstreams.ask(b"POST", request)).body == b"4.0"
        pool.release(worker)
        await pool.drain(5)
        assert worker.child.exited.done()
        await parents.close()

    asyncio.run(run())
