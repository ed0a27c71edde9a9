"""Environment images for a cluster: made of a base image and a layer, in a registry that is asked as any is."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ekiben.errors import AccessDenied, ModelFailed, NotFound, SpecError, Unavailable
from ekiben.kubernetes import oci
from ekiben.kubernetes.builds import SHEBANG, built, found, ran
from ekiben.kubernetes.oci import INDEX, LAYER, MANIFEST, Repository
from ekiben.packing.flat import DESCRIPTION, LOCK, OWN_LOCK, SITE
from tests.fakes.images import Registry, serving
from tests.waiting import alive, until

TAG = "a" * 64
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as server:
        based(server)
        yield server


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one package, so that nothing is fetched from anywhere."""
    folder = tmp_path_factory.mktemp("wheels")
    with zipfile.ZipFile(folder / "boxed-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("boxed/__init__.py", "WHAT = 'lunch'\n\n\ndef main():\n    print('it is', WHAT)\n")
        wheel.writestr("boxed-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: boxed\nVersion: 1.0\n")
        wheel.writestr("boxed-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("boxed-1.0.dist-info/entry_points.txt", "[console_scripts]\nboxed = boxed:main\n")
        wheel.writestr("boxed-1.0.data/scripts/plain", "#!/bin/sh\nexec boxed\n")
        wheel.writestr("boxed-1.0.dist-info/RECORD", "")
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, wheels: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("UV_FIND_LINKS", str(wheels))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    for name in ("HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))


def based(server: Registry, python: str = PYTHON) -> None:
    """A base image with one layer, behind an index."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("etc"))
    layer = gzip.compress(made.getvalue(), mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64", "os": "linux", "config": {"Env": [f"PYTHON_VERSION={python}.1", "PATH=/usr/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [sha256(made.getvalue())]},
        }
    ).encode()  # fmt: skip
    manifest = {
        "schemaVersion": 2,
        "config": {
            "digest": sha256(config),
            "size": len(config),
            "mediaType": "application/vnd.docker.container.image.v1+json",
        },
        "layers": [
            {
                "digest": sha256(layer),
                "size": len(layer),
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
            }
        ],
    }
    server.add("python", "amd64", manifest, "application/vnd.docker.distribution.manifest.v2+json", config, layer)
    at = sha256(json.dumps(manifest).encode())
    platforms = [("arm64", "sha256:" + "0" * 64), ("amd64", at)]
    index = {
        "manifests": [{"digest": digest, "platform": {"os": "linux", "architecture": one}} for one, digest in platforms]
    }
    server.add("python", "base", index, INDEX[0])


def context(folder: Path, server: Registry, lock: str = "boxed==1.0\n", **told: Any) -> str:
    description = {
        "base": f"{server.host}/python:base", "python": PYTHON, "variables": {"PYTHONPATH": SITE}, "user": "65532:65532",
        "entrypoint": ["python3"], "command": ["serve"], "port": 8080, **told,
    }  # fmt: skip
    path = folder / "context.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(DESCRIPTION, json.dumps(description))
        file.writestr(LOCK, lock)
        file.writestr(OWN_LOCK, "")
        file.writestr("ekiben/__init__.py", "")
    return str(path)


def make(server: Registry, source: str, tag: str = TAG) -> str:
    return built(f"http://{server.host}/env", tag, source, stopped=threading.Event())


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_an_image_is_its_base_and_one_layer_with_what_the_lock_pins(registry: Registry, tmp_path: Path) -> None:
    uri = make(registry, context(tmp_path, registry))
    kind, body = registry.manifests["env", TAG]
    assert (kind, uri) == (MANIFEST, f"{registry.host}/env@{sha256(body)}")
    manifest = json.loads(body)
    assert [one["mediaType"] for one in manifest["layers"]] == [LAYER, LAYER]
    config = json.loads(registry.blobs[manifest["config"]["digest"]])
    layer = gzip.decompress(registry.blobs[manifest["layers"][1]["digest"]])
    assert config["rootfs"]["diff_ids"][1] == sha256(layer)
    assert config["config"]["Env"] == [f"PATH={SITE}/bin:/usr/bin", f"PYTHONPATH={SITE}", f"PYTHON_VERSION={PYTHON}.1"]
    assert (config["config"]["User"], config["config"]["Entrypoint"]) == ("65532:65532", ["python3"])
    root = tmp_path / "root"
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert {(one.uid, one.gid, one.mtime) for one in tar} == {(0, 0, 0)}
        tar.extractall(root, filter="data")
    command = [sys.executable, "-S", "-c", "import boxed, ekiben; print(boxed.WHAT, boxed.__cached__)"]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(root) + SITE}, capture_output=True, text=True, check=True
    )  # fmt: skip
    what, _, cached = done.stdout.strip().partition(" ")
    assert what == "lunch"
    assert Path(cached).is_file(), "its bytecode is in the image: its file system cannot be written"


def test_the_commands_of_packages_run_in_the_image_and_tell_nothing_of_this_machine(
    registry: Registry, tmp_path: Path
) -> None:
    make(registry, context(tmp_path, registry))
    manifest = json.loads(registry.manifests["env", TAG][1])
    root = tmp_path / "root"
    with tarfile.open(fileobj=io.BytesIO(registry.blobs[manifest["layers"][1]["digest"]])) as tar:
        tar.extractall(root, filter="data")
    site, python = Path(f"{root}{SITE}"), tmp_path / "python"
    python.mkdir()
    (python / "python3").symlink_to(sys.executable)
    env = {"PYTHONPATH": str(site), "PATH": f"{site}/bin:{python}:/usr/bin:/bin"}
    for command in ("boxed", "plain"):
        done = subprocess.run([site / "bin" / command], env=env, capture_output=True, text=True, check=True)
        assert done.stdout == "it is lunch\n"
    for path in site.rglob("*"):
        said = path.read_bytes() if path.is_file() and path.suffix != ".pyc" else b""
        assert not [one for one in (sys.prefix, sys.base_prefix) if one.encode() in said], path
    record = (site / "boxed-1.0.dist-info" / "RECORD").read_text("utf-8").splitlines()
    assert "bin/boxed,," in record
    assert not [line for line in record if "uv_cache.json,sha" in line]


@pytest.mark.parametrize(
    "begins", ["#!/home/ann/python3.11", "#!/bin/sh\n'''exec' '/home/a b/python' \"$0\" \"$@\"\n' '''"]
)
def test_a_command_that_begins_with_another_machine_s_python_is_told_from_one_that_does_not(begins: str) -> None:
    assert SHEBANG.sub(b"", f"{begins}\nprint('it')\n".encode(), count=1) == b"print('it')\n"
    assert SHEBANG.match(b"#!/bin/sh\necho python\n") is None


def test_what_is_there_is_not_made_again(registry: Registry, tmp_path: Path) -> None:
    source = context(tmp_path, registry)
    first = make(registry, source)
    registry.seen.clear()
    assert make(registry, source) == first == found(f"http://{registry.host}/env", TAG)
    assert {method for method, _ in registry.seen} == {"GET"}
    assert found(f"http://{registry.host}/env", "b" * 64) == ""


def test_another_tag_of_the_same_environment_sends_no_blob_again(registry: Registry, tmp_path: Path) -> None:
    source = context(tmp_path, registry)
    make(registry, source)
    registry.seen.clear()
    make(registry, source, "b" * 64)
    sent = [path for method, path in registry.seen if method == "POST"]
    assert sent == [], "the same files are the same layer"


def test_a_package_that_cannot_be_had_is_named_and_nothing_is_left(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ModelFailed, match="every package needs a wheel") as error:
        make(registry, context(tmp_path, registry, "nowhere==9.9\n"))
    assert "nowhere" in error.value.tail
    assert ("env", TAG) not in registry.manifests


def test_a_base_image_with_another_python_is_refused(registry: Registry, tmp_path: Path) -> None:
    based(registry, "3.8")
    with pytest.raises(SpecError, match=r"3\.8\.1.*pythonImage"):
        make(registry, context(tmp_path, registry))


def test_a_base_image_that_is_not_there_is_named(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="pythonImage"):
        make(registry, context(tmp_path, registry, base=f"{registry.host}/python:3.99"))


def test_a_registry_that_stumbles_is_asked_again_and_not_for_ever(registry: Registry, tmp_path: Path) -> None:
    registry.fail = [503, 429]
    assert make(registry, context(tmp_path, registry))
    registry.fail = [503] * 8
    with pytest.raises(Unavailable, match="answers 503"):
        found(f"http://{registry.host}/env", "c" * 64)


def test_what_is_cut_off_is_fetched_again_from_its_start(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci, "FIRST_PAUSE_S", 0.01)
    repository, path = Repository(f"http://{registry.host}/python"), tmp_path / "blob"
    registry.cut = 1
    assert repository.image("base") is not None
    for digest, blob in registry.blobs.items():
        registry.cut = 3
        with path.open("wb") as file:
            repository.download(digest, file)
        assert path.read_bytes() == blob
    registry.cut = 8
    with path.open("wb") as file, pytest.raises(Unavailable, match="other bytes than its digest says"):
        repository.download(digest, file)


def test_a_cancelled_build_leaves_no_image(registry: Registry, tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(Unavailable, match=r"cannot install \S+: it was cancelled"):
        built(f"http://{registry.host}/env", TAG, context(tmp_path, registry), stopped=stopped)
    assert ("env", TAG) not in registry.manifests


def test_an_installer_that_is_cancelled_ends_with_all_that_it_has_started(tmp_path: Path) -> None:
    told = tmp_path / "pid"

    class WhenItRuns(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return bool(until(lambda: told.exists() and told.read_text()))

    command = ["sh", "-c", 'sleep 1000 & echo $! > "$0"; wait', str(told)]
    with pytest.raises(Unavailable, match="cannot install it: it was cancelled"):
        ran(command, "install it", WhenItRuns(), deadline=float("inf"))
    until(lambda: not alive(int(told.read_text())), "what it has started is gone")


def test_the_login_of_docker_is_shown_and_never_told(tmp_path: Path) -> None:
    with serving("ann:s3cret") as server:
        with pytest.raises(AccessDenied, match="docker login") as error:
            Repository(f"http://{server.host}/env").image(TAG)
        assert "s3cret" not in str(error.value)
        auth = base64.b64encode(b"ann:s3cret").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {server.host: {"auth": auth}}}), encoding="utf-8")
        assert Repository(f"http://{server.host}/env").image(TAG) is None
        based(server)
        assert make(server, context(tmp_path, server))


def test_a_name_that_is_no_repository_is_refused() -> None:
    for name in ("", "nohost", "ftp://host/x", "host/UPPER", "host/"):
        with pytest.raises(SpecError, match="HOST/PATH"):
            Repository(name)
    assert Repository("docker.io/library/python:3.11-slim").tag == "3.11-slim"


def test_a_registry_that_is_not_there_is_named() -> None:
    with serving() as server:
        host = server.host
    with pytest.raises(Unavailable, match="does not answer"):
        Repository(f"http://{host}/env").image(TAG)
