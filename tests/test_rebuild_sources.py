"""rebuild, part by part: sources from a store that is no folder, environments, verdicts."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ekiben.errors import IntegrityError, ProviderError, SpecError
from ekiben.lineage import environment
from ekiben.packing import archive
from ekiben.rebuild import fresh, sources, verdict
from ekiben.records import ModelVersion
from tests.fakes.memory import Memory


def stored(memory: Memory, tmp_path: Path, prefix: str = "points/") -> ModelVersion:
    """A version in memory, as a run leaves it, whose input is what lies below `prefix`."""
    lake = memory.storage("lake")
    code = archive.write({"train.py": b"1", "run.sh": b"#!/bin/sh", "requirements.txt": b"six==1.17.0\n"}, tmp_path)
    bento = archive.write({"bento.yaml": b"", "src/model/model.json": b"{}"}, tmp_path)
    lake.put(f"code/{code.sha256}.tar", code.path)
    lake.put(f"bentos/{bento.sha256}.tar", bento.path)
    files = []
    for name in ("points/a-1.csv", "points/a-2/Übung 2%.csv"):
        lake.put(name, name.encode())
        found = {"uri": lake.uri(name), "sha256": hashlib.sha256(name.encode()).hexdigest(), "bytes": len(name)}
        files.append(found)
    lineage = {
        "inputs": {"points": {"uri": f"{lake.uri()}/{prefix}", "files": files}},
        "code": {"uri": lake.uri(f"code/{code.sha256}.tar"), "sha256": code.sha256},
        "environment": {"lock_sha256": hashlib.sha256(b"six==1.17.0\n").hexdigest()},
    }
    return ModelVersion(
        model="tiny", version=1, key="run-1", digest=bento.sha256, bento_uri=lake.uri(f"bentos/{bento.sha256}.tar"),
        created_at="2026-01-01T00:00:00Z", created_by="ana", lineage=lineage,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("prefix", "names"),
    [("points/", ["a-1.csv", "a-2/Übung 2%.csv"]), ("points/a-", ["a-1.csv", "a-2/Übung 2%.csv"]),
     ("points", ["points/a-1.csv", "points/a-2/Übung 2%.csv"])],
)  # fmt: skip
def test_sources_come_as_a_run_finds_them(tmp_path: Path, prefix: str, names: list[str]) -> None:
    memory = Memory()
    version = stored(memory, tmp_path, prefix)
    found = sources.fetch(memory, version, tmp_path / "made")
    below = found.inputs / "points"
    assert sorted(path.relative_to(below).as_posix() for path in below.rglob("*.csv")) == names
    assert all(not path.stat().st_mode & 0o222 for path in [below, *below.rglob("*")])
    assert found.lock == "six==1.17.0\n"
    assert (found.code / "run.sh").stat().st_mode & 0o777 == 0o755
    assert os.access(found.code / "train.py", os.W_OK)
    assert (found.bento / "src" / "model" / "model.json").read_bytes() == b"{}"


def test_all_that_is_wrong_is_named(tmp_path: Path) -> None:
    memory = Memory()
    version = stored(memory, tmp_path)
    lake = memory.storage("lake")
    lake.put("points/a-1.csv", b"another")
    lake.delete("points/a-2/Übung 2%.csv")
    lake.put(lake.key(version.bento_uri), b"damaged")
    lake.delete(lake.key(version.lineage["code"]["uri"]))
    version.lineage["inputs"]["gone"] = {"uri": "s3://elsewhere/x/", "files": []}
    with pytest.raises(IntegrityError) as caught:
        sources.fetch(memory, version, tmp_path / "made")
    told = str(caught.value)
    for words in (
        "cannot rebuild tiny:1", "the code: there is no such object", "the bento memory://", "a-1.csv has changed",
        "Übung 2%.csv is missing", "the input gone: 's3://elsewhere/x/' lies in no storage that can be used here",
    ):  # fmt: skip
        assert words in told, words


def test_of_very_many_problems_the_first_are_named(tmp_path: Path) -> None:
    memory = Memory()
    version = stored(memory, tmp_path)
    lake = memory.storage("lake")
    version.lineage["inputs"]["points"]["files"] = [
        {"uri": lake.uri(f"points/{i}.csv"), "sha256": "0" * 64} for i in range(100)
    ]
    with pytest.raises(IntegrityError, match=r"0\.csv is missing; .*; and 80 more\. Put back"):
        sources.fetch(memory, version, tmp_path / "made")


def test_a_version_without_code_cannot_be_rebuilt(tmp_path: Path) -> None:
    memory = Memory()
    version = stored(memory, tmp_path)
    version.lineage["code"] = {}
    with pytest.raises(SpecError, match="did not record its code"):
        sources.fetch(memory, version, tmp_path / "made")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of one package, which uv takes for all there is."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "ekiben_probe-1.0-py3-none-any.whl", "w") as file:
        file.writestr("probe.py", "VALUE = 1\n")
        about = "ekiben_probe-1.0.dist-info"
        file.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: ekiben-probe\nVersion: 1.0\n")
        file.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{about}/RECORD", "probe.py,,\n")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def recorded(**more: Any) -> dict[str, Any]:
    return {**environment(), "packages": {"ekiben": "0.1.0", "ekiben-probe": "1.0"}, "unpublished": ["ekiben"], **more}


@pytest.mark.parametrize("lock", ["", "# nothing but a comment\n", "ekiben_probe\n", "ekiben-probe>=0.5"])
def test_without_a_whole_lock_the_recorded_versions_hold(index: Path, tmp_path: Path, lock: str) -> None:
    python = fresh.make(tmp_path, lock, recorded(), ())
    assert list(python.parents[1].glob("lib/python*/site-packages/probe.py"))
    library = fresh.offer_library(tmp_path / "lib")
    assert fresh.differences(python, library, recorded(), 1) == []
    before = recorded(cpu="another", cpus=64, packages={"ekiben-probe": "0.9"}, gpus=[{"name": "H200"}])
    found = {one["what"]: (one["recorded"], one["now"]) for one in fresh.differences(python, library, before, 64)}
    assert found.pop("cpu")[0] == "another"
    assert found.pop("gpus")[0] == "H200"
    cpus = found.pop("cpus", ("64", ""))
    assert cpus[0] == "64"
    assert found == {"ekiben-probe": ("0.9", "1.0")}


def test_a_python_that_is_not_here_is_one_of_the_same_minor_version_and_told(index: Path, tmp_path: Path) -> None:
    minor = ".".join(map(str, sys.version_info[:2]))
    before = recorded(python=f"CPython {minor}.99")
    python = fresh.make(tmp_path, "", before, ())
    (told,) = fresh.differences(python, fresh.offer_library(tmp_path / "lib"), before, 1)
    assert told["what"] == "python"
    with pytest.raises(ProviderError, match="uv could not"):
        fresh.make(tmp_path / "other", "", recorded(python="CPython 3.99.1"), ())


def test_a_version_that_the_index_has_not_is_an_error_of_uvs(index: Path, tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=r"(?s)uv could not: .*ekiben-probe.*--with NAME==VERSION"):
        fresh.make(tmp_path, "ekiben-probe==7.0\n", recorded(), ())


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({"y": 1.0, "z": [1, 2]}, {"y": 1.5, "z": [1, 2]}, [0.5, 0.0, 0.0]),
        (1000.0, 1001.0, [0.001]),
        (1.0, math.inf, [math.inf]),
        ({"y": 1}, {"x": 1}, [None]),
        ([1], [1, 2], [None]),
        ("yes", "no", [None]),
        (True, 1, [None]),
        (None, None, []),
        ("é", "é", []),
    ],
)
def test_answers_differ_by_numbers_or_otherwise(before: Any, now: Any, expected: list[float | None]) -> None:
    assert [difference for difference, _ in verdict.spread(before, now)] == pytest.approx(expected)


def test_a_model_of_xgboosts_is_known_by_its_beginning(tmp_path: Path) -> None:
    xgboost, numpy = pytest.importorskip("xgboost"), pytest.importorskip("numpy")
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(numpy.eye(4), [0, 1, 0, 1]), 1)
    for name in ("model.ubj", "model.json"):
        booster.save_model(tmp_path / name)
        assert verdict.booster(tmp_path / name)
    (tmp_path / "card.json").write_text(json.dumps({"columns": ["AGEP"] * 20, "about": "learner"}))
    assert not verdict.booster(tmp_path / "card.json")
    assert not verdict.booster(tmp_path / "absent.ubj")


def test_files_are_compared_by_name_and_bytes(tmp_path: Path) -> None:
    for side, files in {
        "a": {"same": "1", "less": "1", "other": "1"},
        "b": {"same": "1", "more": "1", "other": "2"},
    }.items():
        (tmp_path / side).mkdir()
        for name, text in files.items():
            (tmp_path / side / name).write_text(text)
    found = {file["name"]: file for file in verdict.files_of(tmp_path / "a", tmp_path / "b")}
    assert [name for name, file in found.items() if file["equal"]] == ["same"]
    assert (found["less"]["rebuilt"], found["more"]["recorded"]) == ("", "")
