"""The engine's environment: private, the user's own values first, never an empty passphrase where others can read."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ekiben import __version__
from ekiben.engine.environment import defaults, environment, exports, find_root
from ekiben.engine.pulumi_cli import Cli
from ekiben.errors import AccessDenied, ProviderError, SpecError

from .conftest import Project

PLUGIN = f"plugins/resource-ekiben-v{__version__}/pulumi-resource-ekiben"


@pytest.fixture
def fake(tmp_path: Path) -> Cli:
    """A CLI that only installs plugins, and keeps count."""
    folder = tmp_path / "fake"
    folder.mkdir()
    script = folder / "pulumi"
    script.write_text(
        "#!/bin/sh\n"
        'echo "$@" >> "$(dirname "$0")/calls"\n'
        f'mkdir -p "$PULUMI_HOME/plugins/resource-ekiben-v{__version__}"\n'
        f'cp "$7" "$PULUMI_HOME/{PLUGIN}"\n'
    )
    script.chmod(0o755)
    (folder / "pulumi-language-python").touch()
    return Cli(path=script, version="3.259.0", origin="path")


def calls(fake: Cli) -> int:
    path = fake.path.with_name("calls")
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_everything_is_below_the_project(fake: Cli, bare: Project) -> None:
    found = environment(bare.root, fake)
    assert found["PULUMI_HOME"] == str(bare.root / ".ekiben" / ".pulumi")
    assert found["PULUMI_BACKEND_URL"] == f"file://{bare.root}/.ekiben"
    assert found["PULUMI_CONFIG_PASSPHRASE"] == ""
    assert found["PULUMI_IGNORE_AMBIENT_PLUGINS"] == "true"
    assert (bare.root / ".ekiben").stat().st_mode & 0o077 == 0, "state is for its owner only"
    assert (Path(found["PULUMI_HOME"]) / PLUGIN).exists()


def test_the_plugin_is_installed_once_and_renewed_when_it_has_moved(fake: Cli, bare: Project) -> None:
    home = Path(environment(bare.root, fake)["PULUMI_HOME"])
    environment(bare.root, fake)
    assert calls(fake) == 1
    (home / PLUGIN).write_text("#!/bin/sh\nexec /gone/python\n")
    environment(bare.root, fake)
    assert calls(fake) == 2
    assert sys.executable in (home / PLUGIN).read_text()


@pytest.mark.parametrize(
    "theirs",
    [
        {"PULUMI_HOME": "{tmp}/home"},
        {"PULUMI_BACKEND_URL": "s3://state", "PULUMI_CONFIG_PASSPHRASE": "long"},
        {"PULUMI_CONFIG_PASSPHRASE": "long"},
        {"PULUMI_CONFIG_PASSPHRASE_FILE": "/run/secret"},
        {"PULUMI_IGNORE_AMBIENT_PLUGINS": ""},
        {"VIRTUAL_ENV": "/their/venv"},
    ],
)
def test_what_the_user_has_set_is_kept(
    fake: Cli, bare: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, theirs: dict[str, str]
) -> None:
    for name, value in theirs.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    found = environment(bare.root, fake)
    assert not set(theirs) & set(found)
    if any("PASSPHRASE" in name for name in theirs):
        assert "PULUMI_CONFIG_PASSPHRASE" not in found


@pytest.mark.parametrize("backend", ["s3://state", "gs://state", "azblob://state", "postgres://state"])
def test_an_empty_passphrase_on_a_shared_backend_is_refused(
    fake: Cli, bare: Project, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", backend)
    assert "PULUMI_CONFIG_PASSPHRASE" not in environment(bare.root, fake)
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "")
    with pytest.raises(SpecError, match=f"The passphrase is empty, and {backend} may be shared"):
        environment(bare.root, fake)


def test_what_was_printed_for_one_project_does_not_leak_into_another(
    fake: Cli, bare: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name, value in environment(other, fake).items():
        monkeypatch.setenv(name, value)
    found = environment(bare.root, fake)
    assert found["PULUMI_HOME"] == defaults(bare.root)["PULUMI_HOME"]
    assert found["PULUMI_BACKEND_URL"] == defaults(bare.root)["PULUMI_BACKEND_URL"]
    assert found["PULUMI_CONFIG_PASSPHRASE"] == ""


def test_exports_survive_a_shell() -> None:
    values = {"A": 'it\'s $HOME `x` "y"\nz', "B": ""}
    script = exports(values) + 'printf "%s|%s" "$A" "$B"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{values['A']}|"
    assert shlex.quote(values["A"]) in exports(values)


def test_a_project_is_found_from_below(bare: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert find_root(bare.root / "infra") == bare.root
    with pytest.raises(SpecError, match="There is no Pulumi.yaml in"):
        find_root(tmp_path_factory.mktemp("empty"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_project_is_told_by_name(fake: Cli, bare: Project) -> None:
    bare.root.chmod(0o500)
    try:
        with pytest.raises(AccessDenied, match=r"cannot keep its state in .*\.ekiben"):
            environment(bare.root, fake)
    finally:
        bare.root.chmod(0o700)


def test_a_file_where_the_state_should_be_is_told_by_name(fake: Cli, bare: Project) -> None:
    (bare.root / ".ekiben").write_text("")
    with pytest.raises(AccessDenied, match=r"cannot keep its state in .*\.ekiben"):
        environment(bare.root, fake)


def test_a_plugin_that_cannot_be_installed_is_an_error(fake: Cli, bare: Project) -> None:
    fake.path.write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    with pytest.raises(ProviderError, match="cannot install the plugin ekiben: no space left"):
        environment(bare.root, fake)


def test_a_backend_without_a_name_is_none(fake: Cli, bare: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", "")  # as CI gives a variable that nobody has set
    found = environment(bare.root, fake)
    assert found["PULUMI_BACKEND_URL"] == f"file://{bare.root}/.ekiben"
    assert found["PULUMI_CONFIG_PASSPHRASE"] == ""
