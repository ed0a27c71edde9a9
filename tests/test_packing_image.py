"""The build context of an environment image: the same bytes for the same environment, and a server that starts from it alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from ekiben.errors import ProviderError, SpecError
from ekiben.packing import archive, image
from ekiben.packing.archive import Bundle
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[1]
LOCK = "bentoml==1.4.39\nPackaging==26.3 ; python_version >= '3.11'\n"
HASHED = "bentoml==1.4.39 \\\n    --hash=sha256:00\nattrs==26.1.0 --hash=sha256:11\n"
WANTED: dict[str, Any] = {
    "python_version": "3.11",
    "base_image": "python:3.11-slim",
    "commands": ["apt-get update && apt-get install -q -y ca-certificates gnupg2 bash build-essential git"],
}
SERVICE = """
import bentoml

@bentoml.service(name="tiny")
class Tiny:
    @bentoml.api
    def predict(self, x: float) -> dict[str, float]:
        return {"y": 2 * x}
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ekiben"


def made(
    tmp_path: Path, lock: str = LOCK, scripts: dict[str, bytes] | None = None, source: str = "", **wanted: Any
) -> Bundle:
    """The context for a template of this lock and this description of the service's image."""
    described = {"name": "tiny", "image": {**WANTED, **wanted}}
    members: dict[str, Any] = {
        "bento.yaml": yaml.safe_dump(described).encode(),
        "env/python/requirements.txt": lock.encode(),
        "src/service.py": (source or SERVICE).encode(),
        **(scripts or {}),
    }
    return image.environment_image(archive.write(members, tmp_path / "templates"))


def read(context: Bundle, name: str) -> str:
    with zipfile.ZipFile(context.path) as file:
        return file.read(name).decode()


def test_the_same_environment_is_the_same_bytes_on_another_day_under_another_umask(tmp_path: Path, cache: Path) -> None:
    first = made(tmp_path)
    data = first.path.read_bytes()
    first.path.unlink()
    before = os.umask(0o077)
    try:
        again = made(tmp_path, source=SERVICE + "\n# a new version of the service, and of its model")
    finally:
        os.umask(before)
    assert again == first
    assert again.path.read_bytes() == data
    assert [path.name for path in (cache / "images").iterdir()] == [f"{first.sha256}.zip"]
    with zipfile.ZipFile(first.path) as file:
        names = file.namelist()
        assert names == sorted(names)
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_STORED}
    assert not [name for name in names if name.endswith("service.py") or name.startswith("src/")]


@pytest.mark.parametrize("change", [{"lock": LOCK + "attrs==26.1.0\n"}, {"python_version": "3.12", "base_image": ""}])
def test_another_lock_or_another_python_is_another_image(tmp_path: Path, change: dict[str, Any]) -> None:
    assert made(tmp_path, **change).sha256 != made(tmp_path).sha256


def test_what_the_image_is_made_of(tmp_path: Path) -> None:
    lines = read(made(tmp_path), "Dockerfile").splitlines()
    assert lines[0] == "FROM --platform=linux/amd64 public.ecr.aws/docker/library/python:3.11-slim-bookworm"
    assert re.fullmatch(
        r"COPY --from=\S+/aws-lambda-adapter:\d+\.\d+\.\d+ /\S+ /opt/extensions/lambda-adapter", lines[1]
    )
    assert "USER 65532:65532" in lines
    assert lines[-2:] == ['ENTRYPOINT ["python", "-P", "-m", "ekiben.cli"]', 'CMD ["serve"]']
    variables = dict(line.removeprefix("ENV ").split("=", 1) for line in lines if line.startswith("ENV "))
    assert variables["PORT"] == "8080"
    assert variables["AWS_LWA_READINESS_CHECK_PATH"] == "/readyz"
    assert variables["HOME"] == "/tmp"
    assert not [line for line in lines if "apt-get" in line]
    assert not [line for line in lines if "latest" in line]


def test_hashes_are_required_where_the_lock_has_them(tmp_path: Path) -> None:
    def installs(lock: str) -> list[str]:
        return [line for line in read(made(tmp_path, lock=lock), "Dockerfile").splitlines() if "pip install" in line]

    assert ["--require-hashes" in line for line in installs(HASHED)] == [True, True]
    assert ["--require-hashes" in line for line in installs(LOCK)] == [False, True]
    with pytest.raises(SpecError, match=r"none for 'cffi==2.1.1'"):
        made(tmp_path, lock=HASHED + "cffi==2.1.1\n")


def test_the_server_s_own_packages_leave_those_of_the_lock_alone(tmp_path: Path) -> None:
    own = read(made(tmp_path), "server.lock")
    assert "obstore==" in own
    assert "packaging==" not in own
    assert "packaging==" in read(made(tmp_path, lock=HASHED), "server.lock")
    assert own.count("--hash=sha256:") > own.count("==")


def test_the_server_s_own_packages_are_the_versions_that_are_tested() -> None:
    pins = set(re.findall(r"^\S+==\S+", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    own = re.findall(r"^\S+==\S+", (ROOT / "providers/ekiben/packing/image.lock").read_text(), re.MULTILINE)
    assert own
    assert set(own) <= pins, "run `make lock`"


def test_a_service_s_own_commands_and_scripts_are_run(tmp_path: Path) -> None:
    commands = [*WANTED["commands"], "apt-get install -q -y libgomp1", "./env/docker/script__a"]
    context = made(
        tmp_path, scripts={"env/docker/script__a": b"#!/bin/sh\n"}, commands=commands, post_commands=["python -c 'import x'"]
    )  # fmt: skip
    lines = read(context, "Dockerfile").splitlines()
    at = lines.index("COPY env/docker/ ./env/docker/")
    assert lines[at + 1 : at + 4] == [
        "RUN apt-get update",
        "RUN apt-get install -q -y libgomp1",
        "RUN ./env/docker/script__a",
    ]
    assert "RUN python -c 'import x'" in lines[at + 4 :]
    with zipfile.ZipFile(context.path) as file:
        assert file.getinfo("env/docker/script__a").external_attr >> 16 == 0o100755


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"base_image": "nvidia/cuda:13.0"}, "base image 'nvidia/cuda:13.0'"),
        ({"python_version": "3.10", "base_image": ""}, "Python 3.10"),
        ({"commands": ["echo a\nRUN b"]}, "'echo a'"),
    ],
)
def test_what_would_not_be_the_service_s_image_is_refused(tmp_path: Path, wanted: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        made(tmp_path, **wanted)


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "images").write_text("")
    with pytest.raises(ProviderError, match="cannot write a build context in"):
        made(tmp_path)


def test_the_build_pushes_one_manifest_for_one_platform() -> None:
    said = yaml.safe_load(image.BUILDSPEC)
    commands = said["phases"]["build"]["commands"]
    assert commands[0] == 'docker build --platform linux/amd64 --provenance=false --tag "$IMAGE" .'
    assert commands[1] == 'docker push "$IMAGE"'


def started(tmp_path: Path, context: Bundle, bento: Path) -> subprocess.Popen[str]:
    """The image's command with the image's library and variables, where nothing can be written but below TMPDIR."""
    with zipfile.ZipFile(context.path) as file:
        file.extractall(tmp_path / "image", [name for name in file.namelist() if name.startswith("ekiben/")])
    (tmp_path / "tmp").mkdir()
    lines = read(context, "Dockerfile").splitlines()
    variables = dict(line.removeprefix("ENV ").split("=", 1) for line in lines if line.startswith("ENV "))
    variables |= {
        "HOME": "/nowhere", "PORT": "0", "EKIBEN_HOST": "127.0.0.1", "TMPDIR": str(tmp_path / "tmp"), "PATH": os.environ["PATH"],
        "PYTHONPATH": str(tmp_path / "image"), "EKIBEN_BENTO": bento.as_uri(),
    }  # fmt: skip
    entry = json.loads(next(line for line in lines if line.startswith("ENTRYPOINT")).partition(" ")[2])
    return subprocess.Popen(
        [sys.executable, *entry[1:], "serve"], env=variables, cwd=tmp_path, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bento")
    members: dict[str, Any] = {
        "bento.yaml": b"service: service:Tiny\nname: tiny\nversion: '1'\nentry_service: tiny\n",
        "env/python/requirements.txt": LOCK.encode(),
        "src/service.py": SERVICE.encode(),
    }
    return archive.write(members, folder).path


def test_the_server_starts_from_the_image_s_files_alone(tmp_path: Path, bento: Path) -> None:
    server = started(tmp_path, made(tmp_path), bento)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + str(server.stderr and server.stderr.read())
        asked = urllib.request.Request(f"{found[0]}/invocations", b'{"x": 2}', {"content-type": "application/json"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert json.load(answer) == {"y": 4.0}
    finally:
        server.terminate()
        server.communicate(timeout=PATIENCE_S)


def test_a_bento_with_another_lock_says_that_the_image_must_be_built_anew(tmp_path: Path, bento: Path) -> None:
    other = made(tmp_path, lock="bentoml==1.4.38\n")
    members = {name: path for name, path in archive.files(archive.unpack(bento, bento.stem, tmp_path / "b")).items()}
    bad = archive.write({**members, "env/python/requirements.txt": b"nowhere-to-be-found==1\n"}, tmp_path / "bad").path
    server = started(tmp_path, other, bad)
    _, said = server.communicate(timeout=PATIENCE_S)
    assert server.returncode == 3
    assert "needs nowhere-to-be-found==1, which this image does not have" in said
    assert "ekiben up" in said


def test_without_a_bento_an_image_says_what_it_lacks(tmp_path: Path) -> None:
    with zipfile.ZipFile(made(tmp_path).path) as file:
        file.extractall(tmp_path / "image", [name for name in file.namelist() if name.startswith("ekiben/")])
    done = subprocess.run(
        [sys.executable, "-P", "-S", "-m", "ekiben.cli", "serve"], env={"PYTHONPATH": str(tmp_path / "image")}, text=True,
        capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, "set EKIBEN_BENTO" in done.stderr) == (3, True), done.stderr
