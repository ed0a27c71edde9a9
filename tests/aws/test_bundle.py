"""A function's bundle on Lambda: small, ours but for one wheel, and enough where there is nothing but boto3."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import ekiben as ek
from ekiben import packing
from ekiben.emulators.aws.workers import RUNTIME
from ekiben.packing.lean import lean

from .conftest import REGION, platform

# What a function needs beside its bundle and what Lambda has; typing_extensions is asked for by checkers of types only.
WHEELS = ("obstore",)
MAIN = """
def handler(event, runtime):
    lake = runtime.storage("lake")
    lake.put_if_absent("seen/" + event.subject, event.id.encode())
    return [lake.key(event.data["uri"]), sorted(one.key for one in lake.list("seen/"))]
"""
PROGRAM = """
import importlib, json, pathlib, sys
task, runtime, payload = sys.argv[1:]
sys.path[:0] = [task, f"{task}/_ekiben", runtime]
from types import SimpleNamespace
from ekiben.aws.handler import handle
said = handle(json.loads(payload), SimpleNamespace(aws_request_id="r"))
light = sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names)
for path in sorted(pathlib.Path(task, "_ekiben", "ekiben").rglob("*.py")):
    importlib.import_module(".".join(path.relative_to(f"{task}/_ekiben").with_suffix("").parts).removesuffix(".__init__"))
everything = sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names)
print("RESULT", json.dumps([said, light, everything]))
"""


@pytest.fixture
def bundle(tmp_path: Path) -> packing.Bundle:
    source = tmp_path / "source"
    source.mkdir()
    (source / "main.py").write_text(MAIN)
    return packing.function_bundle(source, "aws")


def test_the_bundle_is_small_and_all_ours(bundle: packing.Bundle, tmp_path: Path) -> None:
    root = packing.unpack(bundle.path, bundle.sha256, tmp_path / "task")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in root.rglob("*"):
            packed.write(path, path.relative_to(root))
    assert len(zipped.getvalue()) < 100 * 1024
    assert {path.relative_to(root).parts[:2] for path in root.rglob("*.py")} == {("main.py",), ("_ekiben", "ekiben")}


def test_it_runs_in_an_interpreter_that_has_only_what_lambda_has(
    bundle: packing.Bundle, bucket: str, tmp_path: Path, aws: str
) -> None:
    task = packing.unpack(bundle.path, bundle.sha256, tmp_path / "bundle")
    vendored = tmp_path / "task"
    vendored.mkdir()
    for name in ("main.py", "_ekiben"):
        (vendored / name).symlink_to(Path(task) / name)
    for name in WHEELS:
        (vendored / name).symlink_to(Path(str(metadata.distribution(name).locate_file(name))))
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    for name in RUNTIME:
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        origin = Path(found.origin)
        origin = origin.parent if found.submodule_search_locations else origin
        (runtime / origin.name).symlink_to(origin)
    lake = ek.Part(
        name="lake", kind="storage", provider="aws", ref="", facts={"region": REGION, "uri": f"s3://{bucket}"}
    )
    (tmp_path / "platform.json").write_text(platform(lake).to_json())
    detail = {"bucket": {"name": bucket}, "object": {"key": "drop/駅.csv", "etag": "e", "size": 1, "sequencer": "1"}}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", PROGRAM, str(vendored), str(runtime),
         json.dumps({"source": "aws.s3", "detail": detail})],
        env={
            "PATH": os.environ["PATH"], "AWS_ENDPOINT_URL": aws, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_REGION": REGION, "AWS_ALLOW_HTTP": "true", "EKIBEN_PLATFORM": str(tmp_path / "platform.json"),
            "EKIBEN_DELIVERIES": f"s3://{bucket}/deliveries/f",
        },
        capture_output=True, text=True, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, light, everything = json.loads(done.stdout.partition("RESULT ")[2])
    assert said["result"] == ["drop/駅.csv", ["seen/drop/駅.csv"]]
    assert set(light) <= {"__main__", "main", "ekiben", *WHEELS}
    assert set(everything) <= {*light, *RUNTIME}


def test_lean_code_is_the_same_program_on_the_same_lines() -> None:
    source = '''"""Says
what it is.
"""

# Only for people.
WORDS = """
# not a comment
"""  # but this is


class Empty(Exception):
    """Nothing else."""


def one(x: int = 1) -> str:  # noqa: X
    """Two."""
    "no docstring"
    return "# no" + WORDS  # é


async def two() -> None:
    """Only this,
    over two lines.
    """
'''
    found = lean(source)
    for gone in ("Says", "people", "but this", "Nothing", "Two.", "over two", "noqa", "é"):
        assert gone not in found
    assert found.count("\n") == source.count("\n")
    assert "return" in found.splitlines()[17]
    told: dict[str, object] = {}
    exec(compile(found, "x", "exec"), told)
    assert told["WORDS"] == "\n# not a comment\n"
    assert told["one"]() == "# no\n# not a comment\n"  # type: ignore[operator]
