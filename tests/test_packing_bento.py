"""The template of a bento: built by BentoML itself, the same wherever it is built, loadable, and clear about what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ekiben.errors import ModelFailed, NotFound, SpecError
from ekiben.packing import archive, pack, template
from ekiben.packing.lock import check_lock, requirements
from tests.waiting import PATIENCE_S

SERVICE = '''
from __future__ import annotations
import json
from pathlib import Path
import bentoml

IMAGE = bentoml.images.Image(python_version="3.11").requirements_file("requirements.txt").run_script("setup.sh")

@bentoml.service(image=IMAGE)
class Tiny:
    """y = slope * x, après tout."""

    def __init__(self) -> None:
        self.slope = json.loads((Path(__file__).parent / "model" / "model.json").read_text("utf-8"))["slope"]

    @bentoml.api
    def predict(self, x: float) -> dict[str, float]:
        return {"y": self.slope * x}
'''
LOCK = "bentoml==1.4.39 \\\n    --hash=sha256:00\ncffi==2.1.1 ; (implementation_name == 'pypy' and python_version < '3.12')\n"
SOURCE = {"service.py": SERVICE, "requirements.txt": LOCK, "setup.sh": "#!/bin/sh\ntrue\n", "more/é.txt": "x"}
TWO = '@bentoml.service(image=Image(python_version="3.11"))\nclass {}:\n    pass\n'
NOISE = {
    ".DS_Store": "x", "__pycache__/service.cpython-311.pyc": "x", "model/model.json": '{"slope": 9}', ".git/HEAD": "ref",
    ".venv/bin/python": "x", "more/.hidden": "x",
}  # fmt: skip
SIGNATURE = {"columns": ["x"], "sample": {"request": {"x": 2.0}, "response": {"y": 6.0}}}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ekiben" / "templates"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, archive.Bundle, archive.Bundle]]:
    """The same source in two places, built at the same time: one as it is, one with all that does not count around it."""
    root = tmp_path_factory.mktemp("built")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(root / "cache")
    # Had these an influence, the two would still be equal to each other, but not to what the test builds again.
    os.environ.update(TZ="Asia/Tokyo", BENTOML_CONFIG_OPTIONS="tracing.type=jaeger", PYTHONHASHSEED="5")
    umask = os.umask(0o077)
    try:
        places = [lay(root / "one"), lay(root / "somewhere" / "else", **NOISE)]
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(template, places)
        yield root, first, second
    finally:
        os.umask(umask)
        for name in ("TZ", "BENTOML_CONFIG_OPTIONS", "PYTHONHASHSEED"):
            del os.environ[name]
        os.environ.pop("XDG_CACHE_HOME") if before is None else os.environ.update(XDG_CACHE_HOME=before)


def lay(root: Path, **more: str) -> Path:
    for name, text in {**SOURCE, **more}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text:
            path.write_text(text, encoding="utf-8")
        else:
            path.unlink(missing_ok=True)
    return root


def bento(built: tuple[Path, archive.Bundle, archive.Bundle], at: Path, slope: float = 3.0) -> Path:
    model = at / "model"
    model.mkdir(parents=True)
    (model / "model.json").write_text(json.dumps({"slope": slope}))
    packed = pack(built[1].path, model, SIGNATURE, sha256=built[1].sha256, into=at)
    return archive.unpack(packed.path, packed.sha256, at / "bento")


def test_the_same_source_is_the_same_template_wherever_and_beside_whatever_it_lies(
    built: tuple[Path, archive.Bundle, archive.Bundle], tmp_path: Path
) -> None:
    assert built[1] == built[2]
    assert template(lay(tmp_path / "again")).sha256 == built[1].sha256


def test_a_template_holds_the_source_the_lock_and_what_bentoml_makes_of_it(
    built: tuple[Path, archive.Bundle, archive.Bundle], tmp_path: Path
) -> None:
    tree = archive.unpack(built[1].path, built[1].sha256, tmp_path / "tree")
    names = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}
    (script,) = (name for name in names if name.startswith("env/docker/script__"))
    assert names == {
        "README.md", "apis/openapi.yaml", "apis/schema.json", "bento.yaml", "env/docker/Dockerfile", script,
        "env/docker/entrypoint.sh", "env/python/requirements.in", "env/python/requirements.txt",
        *(f"src/{name}" for name in SOURCE),
    }  # fmt: skip
    assert (tree / "env/python/requirements.txt").read_text() == LOCK
    text = (tree / "bento.yaml").read_text("utf-8")
    assert script in text
    assert script in (tree / "env/docker/Dockerfile").read_text()
    everything = b"".join(path.read_bytes() for path in tree.rglob("*") if path.is_file())
    assert str(built[0]).encode() not in everything
    assert b"ekiben-bento-" not in everything
    assert "1970-01-01T00:00:00" in text


def test_another_source_is_another_template(built: tuple[Path, archive.Bundle, archive.Bundle], tmp_path: Path) -> None:
    other = template(lay(tmp_path / "other", **{"more/é.txt": "y"}))
    assert other.sha256 != built[1].sha256


def test_bentoml_serves_the_unpacked_read_only_bento(
    built: tuple[Path, archive.Bundle, archive.Bundle], tmp_path: Path
) -> None:
    tree = bento(built, tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {
        **os.environ,
        "BENTOML_HOME": str(tmp_path / "home"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "BENTO_DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "bentoml", "serve", tree, "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=tmp_path)
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/predict", json.dumps({"x": 2.0}).encode(), {"content-type": "application/json"}
        )
        for _ in range(300):
            assert server.poll() is None, (tmp_path / "log").read_text()
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    assert json.load(answer) == {"y": 6.0}
                break
            except OSError:
                time.sleep(0.1)
        else:
            pytest.fail((tmp_path / "log").read_text())
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(PATIENCE_S)
    archive.verify(tree, pack(built[1].path, tmp_path / "model", SIGNATURE, into=tmp_path).sha256)


def test_bentoml_s_own_loader_takes_the_bento_and_tells_two_models_apart(
    built: tuple[Path, archive.Bundle, archive.Bundle], tmp_path: Path
) -> None:
    trees = [bento(built, tmp_path / "one"), bento(built, tmp_path / "two", slope=4.0)]
    program = (
        "import sys, bentoml; from bentoml._internal.bento import Bento; "
        "print(*(Bento.from_path(path).tag for path in sys.argv[1:])); service = bentoml.load(sys.argv[1]); "
        "print(service.inner().predict(x=2.0))"
    )
    env = {**os.environ, "BENTOML_HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", program, *trees], env=env, capture_output=True, text=True)
    tags, answer = done.stdout.splitlines()
    assert answer == "{'y': 6.0}", done.stderr
    one, two = tags.split()
    assert one != two
    assert {tag.partition(":")[0] for tag in (one, two)} == {"tiny"}


def test_a_second_build_comes_from_the_cache_and_a_damaged_cache_is_mended(
    built: tuple[Path, archive.Bundle, archive.Bundle], cache: Path, tmp_path: Path
) -> None:
    shutil.copytree(built[0] / "cache" / "ekiben" / "templates", cache)
    source = lay(tmp_path / "source")
    found = cache / built[1].path.name
    before = found.stat().st_mtime_ns
    assert template(source) == archive.Bundle(found, built[1].sha256)
    assert found.stat().st_mtime_ns == before
    found.write_bytes(found.read_bytes()[:5000])
    (index,) = cache.glob("*.json")
    assert template(source).sha256 == archive.sha256(found) == built[1].sha256
    index.write_text("{")
    (cache / "other").mkdir()
    assert json.loads(index.read_text() if template(source) else "") == {"sha256": built[1].sha256}


def test_an_interrupted_build_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    started = tmp_path / "started"
    slow = f"import pathlib, time\npathlib.Path({str(started)!r}).write_text('')\ntime.sleep(60)\n" + SERVICE.replace(
        "from __future__ import annotations", ""
    )
    source = lay(tmp_path / "source", **{"service.py": slow})
    private = tmp_path / "tmp"
    private.mkdir()
    program = "import sys; from pathlib import Path; from ekiben.packing import template; template(Path(sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", program, source], env={**os.environ, "TMPDIR": str(private)}, stderr=subprocess.DEVNULL
    )
    while not started.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) != 0
    assert not cache.exists() or os.listdir(cache) == []
    assert os.listdir(private) == []


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"service.py": "import no_such_module  # python_version=\n"}, ModelFailed, "no_such_module"),
        ({"service.py": "x = dict(python_version='3.11')\n"}, SpecError, "There is no service in .*one class"),
        (
            {"service.py": "import bentoml\nfrom bentoml.images import Image\n" + TWO.format("A") + TWO.format("B")},
            SpecError,
            "more than one service.*bentoml.depends",
        ),
        (
            {"service.py": SERVICE.replace('.run_script("setup.sh")', '.python_packages("numpy")')},
            SpecError,
            "asks for 'numpy', which requirements.txt does not lock",
        ),
    ],
    ids=["import error", "no service", "two services", "not in the lock"],
)
def test_what_bentoml_refuses_is_said_clearly(
    change: dict[str, str], error: type[Exception], says: str, cache: Path, tmp_path: Path
) -> None:
    source = lay(tmp_path / "source", **change)
    with pytest.raises(error, match=says) as raised:
        template(source)
    assert str(source) in str(raised.value) or "requirements.txt" in str(raised.value)
    assert not cache.exists() or os.listdir(cache) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"service.py": ""}, "There is no service in .*write service.py"),
        ({"service.py": SERVICE.replace('python_version="3.11"', "")}, "does not say its Python version"),
        ({"requirements.txt": ""}, "has no requirements.txt, which locks what it needs. Lock it with: uv pip compile"),
        ({"bentofile.yaml": "a: [\n"}, "build options .* cannot be read"),
        ({"bentofile.yaml": "- a\n"}, "no table of options"),
    ],
)
def test_what_can_be_seen_without_building_is_refused_at_once(
    change: dict[str, str], says: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=says):
        template(lay(tmp_path / "source", **change))


def test_a_bento_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such folder"):
        template(tmp_path / "absent")


@pytest.mark.parametrize(
    "text",
    [
        "bentoml==1.4.39\n",
        "# made by uv\nBentoML == 1.4.39 ; python_version < '4'  # why\n\n",
        "bentoml[grpc]==1.4.39 \\\n  --hash=sha256:aa \\\n  --hash=sha256:bb\nnumpy===2.0\n",
        f"--index-url https://example.org/simple\nbentoml==1.4.39\nx @ https://e.org/x.whl#sha256={'0' * 64} ; os_name == 'nt'\n",
    ],
)
def test_a_lock_is_a_version_a_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(text)
    assert check_lock(tmp_path / "requirements.txt") == text.encode()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bentoml\n", "Line 1 of .* is not locked to one version: 'bentoml'"),
        ("\n# x\nbentoml==1\nnumpy>=2\n", "Line 4 .*'numpy>=2'"),
        ("bentoml==1.4.39\nnumpy \\\n  --hash=sha256:aa\n", "Line 2 .*'numpy'"),
        ("bentoml==1.*\n", "Line 1"),
        ("bentoml==1,==2\n", "Line 1"),
        ("bentoml==1\n-r other.txt\n", "Line 2"),
        ("bentoml==1\n-e .\n", "Line 2"),
        ("bentoml==1\n./local.whl\n", "Line 2"),
        ("bentoml==1\nx @ https://e.org/x.whl\n", "Line 2"),
        ("bentoml==1\n--index-url https://me:secret@e.org/simple\n", "Line 2 .* password in a URL"),
        ("numpy==2.0\n", "does not lock bentoml"),
        ("", "does not lock bentoml"),
        ("bentoml==1\nnumpy>=2 \\", "Line 2"),
    ],
)
def test_a_lock_that_is_none_is_refused_with_its_line(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(text)
    with pytest.raises(SpecError, match=says) as raised:
        check_lock(tmp_path / "requirements.txt")
    assert "secret" not in str(raised.value)


def test_requirements_are_compared_without_markers_and_hashes() -> None:
    assert requirements(LOCK) == ["bentoml==1.4.39", "cffi==2.1.1"]
    assert requirements("Typing_Extensions == 4.0 ; x\n-i https://e.org\n") == ["typing-extensions==4.0"]
