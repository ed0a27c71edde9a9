"""Which cluster a user gets: the one that KUBECONFIG names, one by kind where that works, and the reason where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ekiben.emulators.kubernetes import chosen, launch, layout, machine
from ekiben.emulators.kubernetes.chosen import Chosen
from ekiben.errors import Unsupported

KIND = """#!/bin/sh
echo "$@" >> {folder}/calls
case "$1" in
get) cat {folder}/clusters ;;
create) {create} ;;
delete) : > {folder}/clusters ;;
esac
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without a cluster, on whose machine none of our own can be."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    (tmp_path / "path").mkdir()
    monkeypatch.setattr(machine, "why_not", lambda: "this machine is a test")
    return tmp_path


def kind(home: Path, create: str) -> None:
    (home / "clusters").touch()
    for name, text in (("kind", KIND.format(folder=home, create=create)), ("docker", "#!/bin/sh\n")):
        program = home / "path" / name
        program.write_text(text.replace("cat ", "/bin/cat "))
        program.chmod(0o755)


def test_the_users_own_is_taken_and_left_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind(home, "exit 1")
    monkeypatch.setenv("KUBECONFIG", "/somewhere/config")
    theirs = Chosen(origin="yours", kubeconfig="/somewhere/config")
    assert chosen.choose(fresh=True) == chosen.found() == chosen.stop() == theirs
    with chosen.borrowed() as there:
        assert there == theirs
    assert not (home / "calls").exists()


def test_kind_is_taken_where_it_works(home: Path) -> None:
    kind(home, f"echo ekiben > {home}/clusters")
    with chosen.borrowed() as there:
        assert there.origin == "kind"
        assert Path(there.kubeconfig).parent == layout.state_dir().parent
        with chosen.borrowed() as again:
            assert again == there
        assert chosen.found() == there, "the first one still uses it"
    assert chosen.found() is None, "the last one has ended"
    assert "create cluster --name ekiben" in (home / "calls").read_text()


def test_what_is_to_be_kept_is_kept(home: Path) -> None:
    kind(home, f"echo ekiben > {home}/clusters")
    with chosen.borrowed():
        chosen.keep()
    there = chosen.found()
    assert there is not None
    assert chosen.stop() == there
    assert chosen.found() is None


def test_where_kind_fails_ours_is_tried_and_the_reason_is_told(home: Path) -> None:
    kind(home, "echo 'ERROR: no image kindest/node' >&2; exit 1")
    said: list[str] = []
    with pytest.raises(Unsupported, match="No cluster can be started here: this machine is a test"):
        chosen.choose(said.append)
    assert "ERROR: no image kindest/node" in said[-1]
    assert (home / "clusters").read_text() == "", "nothing half-made is left"


def test_where_none_can_be_the_reason_is_told(home: Path) -> None:
    with pytest.raises(Unsupported, match="this machine is a test"):
        chosen.choose()
    assert chosen.found() is None
    assert chosen.stop() is None


def test_what_a_killed_cluster_wrote_is_not_believed(home: Path) -> None:
    state = layout.state_dir()
    state.mkdir(parents=True)
    (state / layout.LOCK).write_text("4711")
    (state / layout.ABOUT).write_text(json.dumps({"pid": 4711, "born": "x"}))
    assert launch.found() is None
    assert not launch.running()
    for broken in ("", "{", "{}"):
        (state / layout.ABOUT).write_text(broken)
        assert launch.found() is None


def test_root_is_asked_for_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "takes root" in machine.why_not()


def test_a_cluster_that_somebody_uses_is_not_released(home: Path) -> None:
    kind(home, f"echo ekiben > {home}/clusters")
    assert chosen.release() == "", "none runs"
    with chosen.borrowed():
        assert chosen.release() == "other programs use it"
        chosen.keep()
    assert chosen.release() == "it is not Ekiben's own"
    assert chosen.found() is not None
