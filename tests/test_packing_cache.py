"""Where archives are kept: the user's cache, else a folder of one's own below TMPDIR, and never another's."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from ekiben.errors import AccessDenied
from ekiben.packing.source import cache_dir


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_it_is_the_user_s_where_that_can_be_written(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(scratch / "a" / "b"))
    assert cache_dir() == scratch / "a" / "b" / "ekiben"
    assert cache_dir().is_dir()


@pytest.mark.parametrize("home", ["/proc/none", "/dev/null/none"])
def test_else_it_is_one_s_own_below_tmpdir(scratch: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    found = cache_dir()
    assert found == scratch / f"ekiben-{os.getuid()}"
    assert found.stat().st_mode & 0o777 == 0o700
    assert cache_dir() == found


@pytest.mark.parametrize("how", ["a file", "a link", "open to all"])
def test_what_another_may_have_put_there_is_not_used(scratch: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    place = scratch / f"ekiben-{os.getuid()}"
    if how == "a file":
        place.touch()
    elif how == "a link":
        (scratch / "elsewhere").mkdir()
        place.symlink_to(scratch / "elsewhere")
    else:
        place.mkdir()
        place.chmod(0o777)
    with pytest.raises(AccessDenied, match="others can write there"):
        cache_dir()
