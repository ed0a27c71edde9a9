"""`ekiben new`: what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ekiben import __version__
from ekiben.cli import new
from ekiben.errors import EkibenError, SpecError

ROOT = Path(__file__).resolve().parents[2]
New = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> New:
    def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ekiben.cli", "new", *words],
            **{"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 60, **options},  # type: ignore[call-overload]
        )

    return run


def written(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_says_what_to_type_next_and_that_alone_is_on_stdout(run: New, tmp_path: Path) -> None:
    done = run("shop")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cd shop && make test\nmake demo\n"
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]
    other = json.loads(run("other", "--json").stdout)
    assert other["folder"] == str(tmp_path / "other")
    assert sorted(other["files"]) == sorted(written(tmp_path / "other"))


def test_it_has_the_files_that_are_in_version_control_and_no_others(tmp_path: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for path, source in new.template().items():
        assert source.relative_to(ROOT).as_posix() in tracked, path
    ours = {line.removeprefix("template/") for line in tracked if line.startswith("template/")}
    assert ours <= set(new.template())


def test_only_the_names_differ_from_what_is_tested_here(tmp_path: Path) -> None:
    new.write(tmp_path / "shop")
    made = written(tmp_path / "shop")
    differ = {path for path, source in new.template().items() if made[path] != source.read_bytes()}
    assert differ == set(new.NAMED)
    for path, pairs in new.NAMED.items():
        before = new.template()[path].read_text("utf-8")
        assert [before.count(pair[0]) for pair in pairs] == [1] * len(pairs)
        assert not any(pair[0] in made[path].decode() for pair in pairs)
    assert b"name: shop\n" in made["Pulumi.yaml"]
    assert f"]=={__version__}".encode() in made["pyproject.toml"]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a", "ab", "Shop", "my_shop", "-shop", "shop-", "a--b", "1shop", "é-shop", "s" * 25, "a/b", "../shop",
     "/tmp/shop", "shop ", "sh\nop", "--", "c:shop"],
)  # fmt: skip
def test_a_name_that_some_provider_refuses_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="use 3 to 24 of a-z, 0-9 and single dashes"):
        new.new(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ekiben", "pytest", "ruff"])
def test_a_name_that_is_a_dependency_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="package"):
        new.write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["file", "folder", "link", "dangling"])
def test_what_is_there_is_left_alone(there: str, run: New, tmp_path: Path) -> None:
    at = tmp_path / "shop"
    if there == "file":
        at.write_text("mine")
    elif there == "folder":
        (at / ".git").mkdir(parents=True)
    else:
        (tmp_path / "elsewhere").mkdir()
        at.symlink_to("elsewhere" if there == "link" else "nowhere")
    before = sorted(tmp_path.rglob("*"))
    done = run("shop")
    assert done.returncode == 5
    assert "is there, and not an empty folder. Choose another name." in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_taken(run: New, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    assert run("shop").returncode == 0
    assert (tmp_path / "shop" / "Pulumi.yaml").is_file()


def test_a_full_disk_leaves_nothing(run: New, tmp_path: Path) -> None:
    limit = 4000  # bytes a file: most fit, the larger ones do not

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = run("shop", preexec_fn=full, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 5
    assert "cannot write the project 'shop'" in done.stderr
    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_make_one_whole_project(tmp_path: Path) -> None:
    refused: list[EkibenError] = []

    def write() -> None:
        try:
            new.write(tmp_path / "shop")
        except EkibenError as error:
            refused.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]
    assert sorted(written(tmp_path / "shop")) == sorted(new.template())


def test_it_takes_no_engine_and_no_model_library() -> None:
    program = "import sys; from ekiben.cli import new; new.template(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {"pulumi", "pydantic", "bentoml", "numpy", "aiohttp"} & {name.split(".")[0] for name in loaded} == set()
