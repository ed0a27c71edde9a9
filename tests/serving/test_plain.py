"""What the lean server serves, what BentoML's own must, and that the log says why."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ekiben.serving import plain

from .conftest import PARENT, folder, served

PLAIN = """
import typing
import bentoml
from bentoml import images as pictures
from bentoml.exceptions import NotFound
from bentoml.validators import Shape

@bentoml.service(image=pictures.Image(python_version="3.11").requirements_file("requirements.txt"), resources={"cpu": 2})
class Probe:
    @bentoml.api
    def one(self, x: int) -> int:
        return x
"""
TASK = (
    PLAIN
    + """
    @bentoml.task
    def later(self, x: int) -> int:
        return x
"""
)
LOCK = {"src/requirements.txt": ""}
HIDDEN = TASK.replace("bentoml.task", "getattr(bentoml, 'ta' + 'sk')")


@pytest.mark.parametrize(
    ("added", "why"),
    [
        ("", ""),
        ("with bentoml.importing():\n    import json", ""),
        ("print(bentoml.__version__)", ""),
        ("import bentoml as b\nb.depends(Probe)", "it uses bentoml.depends"),
        ("from bentoml import depends", "it uses bentoml.depends"),
        ("from bentoml.models import BentoModel", "it uses bentoml.models.BentoModel"),
        ("bentoml.models.BentoModel('x:1')", "it uses bentoml.models"),
        ("import bentoml.gradio", "it uses bentoml.gradio"),
        ("from _bentoml_sdk import service", "it uses _bentoml_sdk.service"),
        ("@bentoml.asgi_app(None)\ndef f(): ...", "it uses bentoml.asgi_app"),
        ("def f():\n    return bentoml.SyncHTTPClient('x')", "it uses bentoml.SyncHTTPClient"),
        ("async def f(self):\n    return await self.to_async.one(1)", "it uses to_async"),
        ("bentoml.exceptions.NotThere", ""),  # found out when it is imported
        ("this is no python", ""),
    ],
)
def test_reading_the_code_tells(tmp_path: Path, added: str, why: str) -> None:
    (tmp_path / "service.py").write_text(PLAIN + added)
    assert plain.reason(tmp_path) == why


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("resources=", "traffic={'timeout': 3}, threads=2, workers=4, metrics={'namespace': 'x'}, resources=", ""),
        ("resources=", "tracing={'sample_rate': 1.0}, resources=", "it is configured with tracing"),
        ("resources=", "ssl={'enabled': True}, resources=", "it is configured with TLS"),
        ("resources=", "http={'cors': {'enabled': True}}, logging={'access': {'enabled': True}}, resources=", ""),
        ("resources=", "traffic={'timeout': 'soon'}, resources=", "its traffic.timeout is 'soon'"),
        *(
            (
                "@bentoml.api\n    def one(self, x: int)",
                f"@bentoml.api(batchable=True{dim})\n    def one(self, x: {kind})",
                why,
            )
            for kind, dim, why in (
                ("list", "", ""),
                ("'list[int] | None'", "", ""),
                ("typing.Any", ", batch_dim=1", ""),
                ("int", "", "its method one is batchable and takes nothing with rows along dimension 0"),
                (
                    "list[int]",
                    ", batch_dim=1",
                    "its method one is batchable and takes nothing with rows along dimension 1",
                ),
                ("list[int]", ", batch_dim='x'", "its method one is batchable and has the batch_dim ('x', 'x')"),
            )
        ),
        ("@bentoml.api\n", "@bentoml.api(route='/a/{b}')\n", "the route of one has parameters"),
    ],
)
def test_the_service_itself_tells(tmp_path: Path, old: str, new: str, why: str) -> None:
    (tmp_path / "service.py").write_text(PLAIN.replace(old, new))
    program = (
        "from ekiben.serving import plain, standin; standin.install(); import service; "
        "print(plain.reason_of_service(service.Probe), end='')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == why


@pytest.mark.parametrize("name", ["BENTOML_CONFIG", "BENTOML_CONFIG_OPTIONS"])
def test_where_bentoml_is_configured_it_serves(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert plain.reason_of_surroundings() == ""
    monkeypatch.setenv(name, "x")
    assert plain.reason_of_surroundings() == f"{name} configures BentoML"


def test_a_service_with_a_task_is_served_by_bentoml_and_the_log_says_why(tmp_path: Path) -> None:
    with served(folder(tmp_path / "bento", TASK, files=LOCK), tmp_path / "worker") as worker:
        assert worker.post("/one", {"x": 3}).json == 3
        assert "task_id" in worker.post("/later/submit", {"x": 3}).json
        assert "BentoML's own server runs this service: it uses bentoml.task." in worker.log.read_text()


def test_what_is_found_out_late_makes_the_same_process_begin_anew(tmp_path: Path) -> None:
    counted = HIDDEN + "    def __init__(self):\n        import os\n        self.number = os.getpid()\n"
    counted += "    @bentoml.api\n    def pid(self) -> int:\n        return self.number\n"
    with served(
        folder(tmp_path / "bento", counted, files=LOCK), tmp_path / "worker", env={"SECRET": "s3cret"}
    ) as worker:
        assert worker.post("/pid", {}).json == worker.process.pid
        assert "task_id" in worker.post("/later/submit", {"x": 3}).json
        assert "BentoML's own server runs this service: it uses bentoml.task." in worker.log.read_text()
        assert b"s3cret" not in Path(f"/proc/{worker.process.pid}/cmdline").read_bytes()


def test_bentoml_itself_is_there_for_a_service_that_asks_for_it_late(tmp_path: Path) -> None:
    late = PLAIN + (
        "    @bentoml.api\n    def tag(self) -> str:\n        return str(getattr(bentoml, 'T' + 'ag')('a', 'b'))\n"
        "    @bentoml.api\n    def lost(self) -> str:\n        raise NotFound('still known')\n"
    )
    with served(folder(tmp_path / "bento", late, files=LOCK), tmp_path / "worker") as worker:
        assert worker.post("/tag", {}).body == b"a:b"
        assert (worker.post("/lost", {}).status, worker.post("/one", {"x": 3}).json) == (404, 3)
        assert "the service asks for bentoml.Tag now" in worker.log.read_text()


def third_party(names: list[str]) -> set[str]:
    """Without what compiled modules and the standard library make up."""
    return {name for name in names if not name.startswith(("__", "_sysconfigdata", "_cython", "cython_"))}


def test_a_plain_service_starts_with_pydantic_and_the_server_alone(tmp_path: Path) -> None:
    """The budget of imports. What grows it makes every start from zero slower: look for a way around it first."""
    loaded = PLAIN + (
        "    @bentoml.api\n    def loaded(self) -> list[str]:\n        import sys\n"
        "        return sorted({name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names))\n"
    )
    with served(folder(tmp_path / "bento", loaded), tmp_path / "worker") as worker:
        found = third_party(worker.post("/loaded", {}).json)
    assert found == {
        "_ekiben_serving", "annotated_types", "bentoml", "httptools", "pydantic", "pydantic_core", "service",
        "typing_extensions", "typing_inspection", "uvloop",
    }  # fmt: skip


def test_the_command_starts_with_the_command_line_alone(tmp_path: Path) -> None:
    """The same budget, for what `ekiben serve` loads before it becomes the server in the bento's own environment."""
    lock = {"env/python/requirements.lock.txt": "pydantic==" + importlib.metadata.version("pydantic") + "\n"}
    bento = folder(tmp_path / "bento", PLAIN, files=lock)
    program = """
import json, os, sys
def fork():
    print(json.dumps(sorted(sys.modules)), flush=True)
    os._exit(0)
os.fork = fork
from ekiben.cli import main
main(["serve", sys.argv[1], "--port=0"])
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(bento)], capture_output=True, text=True, check=True, env=environment
    )
    loaded = json.loads(done.stdout)
    assert {name for name in loaded if name.startswith("ekiben")} == {
        "ekiben", "ekiben.cli", "ekiben.cli.server", "ekiben.errors", "ekiben.serving", "ekiben.serving.parent",
    }  # fmt: skip
    others = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    assert third_party(sorted(others)) == {"_ekiben_serving", "ekiben"}
    slow = (
        "asyncio",
        "ast",
        "email.message",
        "http.client",
        "importlib.metadata",
        "inspect",
        "logging",
        "ssl",
        "subprocess",
    )
    assert [name for name in slow if name in loaded] == []


def test_a_parent_for_plain_services_imports_no_bentoml() -> None:
    program = f"""
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("parent", {str(PARENT)!r})
parent = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parent)
parent.make_package()
parent.load({list(plain.preloaded("", ["bentoml", "bentoml.images", "pydantic"]))!r})
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}} - set(sys.stdlib_module_names))))
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stderr == ""
    assert third_party(json.loads(done.stdout)) - {"parent"} == {
        "_ekiben_serving", "annotated_types", "httptools", "pydantic", "pydantic_core", "typing_extensions",
        "typing_inspection", "uvloop",
    }  # fmt: skip
