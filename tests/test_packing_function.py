"""A function's bundle runs where nothing of ours is installed, only obstore."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from ekiben import packing
from ekiben.errors import NotFound, SpecError
from ekiben.records import ModelVersion, Part, Platform
from ekiben.registry import ObjectRegistry
from ekiben.storage import open_storage

HANDLER = """
import ekiben as ek

def handler(event: ek.Event, runtime: ek.Runtime) -> str:
    lake = runtime.storage("lake")
    lake.put_if_absent("seen.txt", event.id.encode())
    version = runtime.registry("models").version("tiny:1")
    try:
        runtime.endpoint("api")
    except ek.NotFound as error:
        return f"{version.id} {lake.get('seen.txt').decode()} {type(error).__name__}"
"""

PROGRAM = """
import json, sys
code, site, platform = sys.argv[1:]
sys.path[:0] = [code, f"{code}/_ekiben", site]
import ekiben
runtime = ekiben.connect(platform)
import main
said = main.handler(ekiben.Event(id="e-1", type="Http", source="x"), runtime)
light = sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names)
import importlib, pathlib
for path in sorted(pathlib.Path(code, "_ekiben").rglob("*.py")):
    name = ".".join(path.relative_to(f"{code}/_ekiben").with_suffix("").parts).removesuffix(".__init__")
    importlib.import_module(name)
from ekiben import release
release.register, release.release, release.rollback
everything = sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names)
print(json.dumps([said, light, everything, ekiben.__file__]))
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with what `pip install obstore` installs, and nothing else."""
    made = tmp_path / "site"
    for name in ("obstore", "typing_extensions"):
        distribution = metadata.distribution(name)
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            if ".." not in file.parts and source.is_file():
                (made / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, made / file)
    return made


def platform(folder: Path) -> Platform:
    """A lake with one model version in it."""
    (folder / "lake").mkdir()
    uri = (folder / "lake").as_uri()
    lake = open_storage(uri)
    models = ObjectRegistry(lake, "registry/models", provider="local", source="models", publish=lambda event: None)
    models.register(
        ModelVersion(
            model="tiny", version=0, key="r", digest="0" * 64, bento_uri="file:///b", created_at="", created_by="x"
        )
    )
    facts = {"uri": f"{uri}/registry/models", "require_approval": True, "station": str(folder)}
    parts = (
        Part(name="lake", kind="storage", provider="local", ref="lake", facts={"uri": uri}),
        Part(name="models", kind="registry", provider="local", ref="models", facts=facts),
    )
    return Platform(project="p", stack="s", parts={part.name: part for part in parts})


def test_f13_a_function_needs_nothing_but_obstore(tmp_path: Path, site: Path) -> None:
    source = tmp_path / "function"
    source.mkdir()
    (source / "main.py").write_text(HANDLER)
    bundle = packing.function_bundle(source)
    code = packing.unpack(bundle.path, bundle.sha256, tmp_path / "code")
    command = [sys.executable, "-I", "-S", "-B", "-c", PROGRAM, code, site, platform(tmp_path).to_json()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said, light, everything, where = json.loads(done.stdout)
    assert said == "tiny:1 e-1 NotFound"
    assert set(light) <= {"__main__", "main", "ekiben", "obstore", "typing_extensions"}
    assert set(everything) <= {*light, "obstore", "typing_extensions"}
    assert where.startswith(str(code))
    packing.verify(code, bundle.sha256)


def test_a_function_s_bundle_follows_from_its_source(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "__pycache__").mkdir(parents=True)
        (tmp_path / name / "main.py").write_text(HANDLER)
        (tmp_path / name / "__pycache__" / f"{name}.pyc").write_bytes(name.encode())
    one, two = (packing.function_bundle(tmp_path / name) for name in ("one", "two"))
    assert one == two
    (tmp_path / "two" / "main.py").write_text(HANDLER + "\n")
    assert packing.function_bundle(tmp_path / "two").sha256 != one.sha256


def test_a_function_without_main_py_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match=r"has no main.py.*handler\(event, runtime\)"):
        packing.function_bundle(tmp_path / "empty")
    with pytest.raises(NotFound):
        packing.function_bundle(tmp_path / "absent")


def test_importing_packing_and_what_functions_use_of_it_pulls_in_nothing() -> None:
    program = (
        "import json, sys; from ekiben.packing import pack, unpack, verify, Bundle; import ekiben.release, ekiben.lineage; "
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names)))"
    )
    base = "import json, sys; print(json.dumps(sorted({n.partition('.')[0] for n in sys.modules} - sys.stdlib_module_names)))"
    loaded, idle = (
        set(json.loads(subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout))
        for text in (program, base)
    )
    assert loaded - idle == {"ekiben"}
