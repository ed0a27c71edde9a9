"""Finding, fetching and building the CLI: in their order, each refused for a reason, never half."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ekiben.engine import build, pulumi_cli
from ekiben.errors import NotFound, ProviderError

Said = tuple[list[str], Callable[[str], None]]
TOOLS = ("sh", "cat", "mkdir", "dirname", "sleep", "chmod", "cp", "echo", "test")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of one folder, an empty cache, and no way out to the network."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return folder


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def pulumi(folder: Path, version: str = "v3.300.1", *, host: bool = True) -> Path:
    if host:
        executable(folder / "pulumi-language-python", "")
    return executable(folder / "pulumi", f"echo {version}")


def test_one_on_path_is_used_as_it_is(path: Path, tmp_path: Path, said: Said) -> None:
    pulumi(path)
    found = pulumi_cli.ensure(tmp_path, said[1])
    assert found == pulumi_cli.Cli(path=path / "pulumi", version="3.300.1", origin="path")
    assert said[0] == []


@pytest.mark.parametrize(
    ("version", "host", "why"),
    [
        ("v3.99.0", True, "3.99.0, 3.200.0 or newer is needed"),
        ("nonsense", True, "no version"),
        ("v3.300.1", False, "it has no pulumi-language-python beside it"),
    ],
)
def test_one_on_path_that_will_not_do_is_passed_over_aloud(
    path: Path, tmp_path: Path, said: Said, version: str, host: bool, why: str
) -> None:
    pulumi(path, version, host=host)
    assert pulumi_cli.find(tmp_path, said[1]) is None
    assert why in said[0][0]


def test_our_own_link_on_path_is_not_taken_for_the_users(path: Path, tmp_path: Path) -> None:
    built = pulumi(tmp_path / "cache" / "ekiben" / "pulumi" / f"v{build.VERSION}" / "bin", host=False)
    (path / "pulumi").symlink_to(built)
    found = pulumi_cli.find(tmp_path)
    assert found is not None
    assert (found.origin, found.path) == ("built", built.resolve())
    shim = built.with_name("pulumi-language-python")
    assert shim.stat().st_mode & stat.S_IXUSR, "the language host stands beside the built CLI"
    assert not (path / "pulumi-language-python").exists(), "and nowhere else"


def test_one_that_the_installer_left_comes_before_a_built_one(path: Path, tmp_path: Path) -> None:
    pulumi(tmp_path / "cache" / "ekiben" / "pulumi" / f"v{build.VERSION}" / "bin")
    installed = pulumi(tmp_path / ".pulumi" / "cli" / "bin", "v3.272.0")
    assert pulumi_cli.find(tmp_path) == pulumi_cli.Cli(path=installed, version="3.272.0", origin="installed")


def test_none_of_the_three_ways_is_one_clear_error(path: Path, tmp_path: Path, said: Said) -> None:
    with pytest.raises(NotFound) as told:
        pulumi_cli.ensure(tmp_path, said[1])
    for way in ("install Pulumi 3.200.0 or newer", "https://get.pulumi.com", "install Go 1.25 or newer", "GOPROXY"):
        assert way in str(told.value)
    assert "the site cannot be reached" in said[0][0]
    assert "there is no `go` on PATH" in said[0][1]
    assert not (tmp_path / ".pulumi").exists()


GO = """
case "$1" in
build)
  while [ "$1" != -o ]; do shift; done
  echo "go: downloading x" >&2; echo "some/package" >&2
  {compile}
  ;;
list) echo "{sdk}" ;;
esac
"""


def go(path: Path, tmp_path: Path, compile: str) -> None:
    sdk = tmp_path / "sdk"
    for name in build.FROM_SDK:
        (sdk / name).parent.mkdir(parents=True, exist_ok=True)
        (sdk / name).write_text(name)
        (sdk / name).chmod(0o444)  # as the module cache has them
    executable(path / "go", GO.format(compile=compile, sdk=sdk))


MAKES = 'printf "#!/bin/sh\\necho {version}\\n" > "$2"; chmod +x "$2"'


def test_it_is_built_once_with_all_that_stands_beside_it(path: Path, tmp_path: Path, said: Said) -> None:
    go(path, tmp_path, f"echo x >> {tmp_path}/builds; " + MAKES.format(version=f"v{build.VERSION}"))
    made = pulumi_cli.ensure(tmp_path, said[1])
    assert made.origin == "built"
    beside = {entry.name: os.access(entry, os.X_OK) for entry in made.path.parent.iterdir()}
    assert beside == dict.fromkeys(
        ("pulumi", "pulumi-language-python", "pulumi-language-python-exec", "pulumi-resource-pulumi-python"), True
    )
    assert pulumi_cli.ensure(tmp_path, said[1]) == made
    assert (tmp_path / "builds").read_text() == "x\n"
    assert [entry.name for entry in made.path.parents[1].iterdir()] == ["bin"], "nothing half-made is left"


@pytest.mark.parametrize(
    ("compile", "why"),
    [
        ("echo undefined: x >&2; exit 1", r"`go build` failed:\n.*undefined: x"),
        (MAKES.format(version="v0.0.1"), r"calls itself 'v0.0.1', not v3\."),
    ],
)
def test_a_build_that_fails_leaves_nothing(path: Path, tmp_path: Path, said: Said, compile: str, why: str) -> None:
    go(path, tmp_path, compile)
    with pytest.raises(ProviderError, match=re.compile(why, re.DOTALL)):
        build.build(tmp_path / "cache" / "bin", said[1])
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_module_pins_the_version_and_every_sum() -> None:
    module = Path(build.__file__).parent / "go"
    text = (module / "go.mod").read_text()
    assert f"github.com/pulumi/pulumi/pkg/v3 v{build.VERSION}" in text
    assert f"{build.SDK} v{build.VERSION}" in text
    sums = (module / "go.sum").read_text()
    for name, version in re.findall(r"^(?:require )?\s*(\S+) (v\S+)", text, re.MULTILINE):
        assert f"{name} {version}" in sums or "clipboard" in name, name


def test_the_link_follows_the_cli(path: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    venv.mkdir()
    cli = pulumi_cli.Cli(path=pulumi(tmp_path / "one"), version="1.0.0", origin="built")
    pulumi_cli.link(cli, venv)
    pulumi_cli.link(cli, venv)
    assert (venv / "pulumi").readlink() == cli.path
    newer = pulumi_cli.Cli(path=pulumi(tmp_path / "two"), version="1.0.0", origin="installed")
    pulumi_cli.link(newer, venv)
    assert (venv / "pulumi").readlink() == newer.path
    pulumi_cli.link(pulumi_cli.Cli(path=pulumi(path), version="1.0.0", origin="path"), venv)
    assert list(venv.iterdir()) == [], "the user's own is not shadowed"
    executable(venv / "pulumi", "")
    pulumi_cli.link(cli, venv)
    assert not (venv / "pulumi").is_symlink(), "what is not ours is left alone"
