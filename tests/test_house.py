"""The rules of the house that no linter knows: who imports whom outside the library, sizes, names, words."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ekiben as ek

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "providers" / "ekiben"


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()]


def imported(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield path, node.module
                yield from ((path, f"{node.module}.{alias.name}") for alias in node.names)


def test_bentos_import_nothing_of_ours() -> None:
    assert [found for found in imported(ROOT / "bentos") if found[1].split(".")[0] == "ekiben"] == []


def test_training_jobs_import_the_job_module_and_no_more() -> None:
    ours = {name for _, name in imported(ROOT / "training_jobs") if name.split(".")[0] in ("ekiben", "pulumi")}
    assert ours <= {"ekiben", "ekiben.job"}


def test_functions_need_only_ekiben_and_the_standard_library() -> None:
    names = {name.split(".")[0] for _, name in imported(ROOT / "functions")}
    assert names - set(sys.stdlib_module_names) <= {"ekiben"}


def test_providers_never_import_each_other() -> None:
    packages = [package for package in ek.providers().values() if package.startswith("ekiben.")]
    for package in packages:
        others = tuple(other for other in packages if other != package)
        folder = LIBRARY / package.removeprefix("ekiben.")
        assert [found for found in imported(folder) if found[1].startswith(others)] == [] if others else True


def test_importing_ekiben_is_light() -> None:
    program = "import json, sys, ekiben; ekiben.connect; ekiben.SpecError; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    heavy = {
        "pulumi",
        "pydantic",
        "boto3",
        "bentoml",
        "numpy",
        "xgboost",
        "pandas",
        "obstore",
        "typer",
        "rich",
        "aiohttp",
        "lightkube",
    }
    assert heavy & {name.split(".")[0] for name in loaded} == set()


def test_the_public_names_are_there_and_sorted() -> None:
    assert ek.__all__ == sorted(ek.__all__)
    for name in ek.__all__:
        assert getattr(ek, name) is not None
    for module in ("errors", "features", "records", "runtime", "specs", "components"):
        names = importlib.import_module(f"ekiben.{module}").__all__
        assert names == sorted(names), f"__all__ of ekiben.{module} is not sorted"


@pytest.mark.parametrize("path", [p for p in tracked() if p.suffix == ".py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_short_and_named_by_its_noun(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 400
    assert path.stem not in {"utils", "util", "helpers", "common", "base", "core", "manager", "misc"}
    assert not re.search(r"\b(TODO|FIXME|XXX)\b" if path != Path(__file__) else r"(?!)", text)


def test_every_module_of_the_library_says_what_it_is() -> None:
    silent = [
        p for p in LIBRARY.rglob("*.py") if p.stat().st_size and not ast.get_docstring(ast.parse(p.read_text("utf-8")))
    ]
    assert silent == []
