"""The cluster's binaries: built once, from the versions that their makers pinned, and where a build stopped it goes on."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from ekiben.emulators.kubernetes import binaries
from ekiben.emulators.kubernetes.binaries import Module
from ekiben.errors import NotFound, ProviderError

GO = """#!/bin/sh
case "$1 $2" in
"mod download") echo '{{"GoMod": "{proxy}/go.mod", "Dir": "{proxy}"}}' ;;
"mod edit") cat {proxy}/edit.json ;;
build*)
  for word in "$@"; do [ "$before" = -o ] && out=$word; before=$word; done
  echo "$before" >> {proxy}/builds
  [ "$before" = example.com/m/cmd/bad ] && {{ echo 'undefined: x' >&2; exit 1; }}
  cat go.mod > "$out"; chmod +x "$out" ;;
esac
"""
PINNED = {
    "Go": "1.26.0",
    "Godebug": [{"Key": "default", "Value": "go1.26"}],
    "Require": [{"Path": "example.com/api", "Version": "v0.0.0"}, {"Path": "example.com/far", "Version": "v1.2.3"}],
    "Replace": [
        {"Old": {"Path": "example.com/api"}, "New": {"Path": "./staging/api"}},
        {"Old": {"Path": "example.com/far"}, "New": {"Path": "example.com/fork", "Version": "v1.2.4"}},
        {"Old": {"Path": "example.com/unused"}, "New": {"Path": "./FORBIDDEN"}},
    ],
}
ONE = Module(path="example.com/m", version="v1.0.0", packages={"first": "cmd/first"}, beside="v0.9.0")


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Go that knows one module; its builds are counted in `builds`."""
    folder = tmp_path / "proxy"
    folder.mkdir()
    (folder / "edit.json").write_text(json.dumps(PINNED))
    (folder / "go.sum").write_text("example.com/far v1.2.3 h1:x=\n")
    (folder / "builds").touch()
    go = tmp_path / "path" / "go"
    go.parent.mkdir()
    go.write_text(GO.format(proxy=folder))
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{go.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def builds(proxy: Path) -> list[str]:
    return (proxy / "builds").read_text().split()


def test_a_binary_is_built_once_with_what_its_module_pins(proxy: Path) -> None:
    said: list[str] = []
    folder = binaries.ensure(said.append, [ONE])
    assert binaries.ensure(said.append, [ONE]) == folder
    assert builds(proxy) == ["example.com/m/cmd/first"]
    assert set((folder / "first").read_text().splitlines()) == {
        "module ekiben/cluster",
        "go 1.26.0",
        "godebug default=go1.26",
        "replace example.com/api => example.com/api v0.9.0",
        "replace example.com/far  => example.com/fork v1.2.4",
        "require example.com/api v0.9.0",
        "require example.com/far v1.2.3",
        "require example.com/m v1.0.0",
    }
    assert "first" in said[0]


def test_a_binary_may_be_of_a_module_that_it_requires(proxy: Path) -> None:
    packages = {"first": "cmd/first", "other": "example.com/far", "third": "example.com/far/cmd/third", "itself": ""}
    binaries.ensure(lambda line: None, [Module(path=ONE.path, version=ONE.version, packages=packages)])
    wanted = ["example.com/m/cmd/first", "example.com/far", "example.com/far/cmd/third", "example.com/m"]
    assert builds(proxy) == wanted


def test_another_version_is_built_again(proxy: Path) -> None:
    binaries.ensure(lambda line: None, [ONE])
    newer = Module(path=ONE.path, version="v1.0.1", packages=ONE.packages, beside=ONE.beside)
    assert binaries.missing([newer]) == ["first"]
    folder = binaries.ensure(lambda line: None, [newer])
    assert "require example.com/m v1.0.1" in (folder / "first").read_text()
    assert binaries.missing([newer]) == []


def test_a_build_that_fails_says_why_and_keeps_what_was_built(proxy: Path) -> None:
    both = Module(path=ONE.path, version=ONE.version, packages={"first": "cmd/first", "bad": "cmd/bad"})
    for _ in range(2):
        with pytest.raises(ProviderError, match=r"cannot build example\.com/m v1\.0\.0: .*\nundefined: x"):
            binaries.ensure(lambda line: None, [both])
    assert builds(proxy) == ["example.com/m/cmd/first", "example.com/m/cmd/bad", "example.com/m/cmd/bad"]
    assert sorted(entry.name for entry in (binaries.cache() / "bin").iterdir()) == [".built", "first"]


def test_two_programs_that_ask_at_once_build_once(proxy: Path) -> None:
    threads = [threading.Thread(target=binaries.ensure, args=(lambda line: None, [ONE])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert builds(proxy) == ["example.com/m/cmd/first"]


def test_without_go_what_is_built_is_found_and_the_rest_is_an_error(
    proxy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = binaries.ensure(lambda line: None, [ONE])
    monkeypatch.setenv("PATH", "/nowhere")
    assert binaries.ensure(lambda line: None, [ONE]) == folder
    with pytest.raises(NotFound, match="no `go` on PATH"):
        binaries.ensure(lambda line: None, [Module(path="example.com/n", version="v1.0.0", packages={"other": ""})])
