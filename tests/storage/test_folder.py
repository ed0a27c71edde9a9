"""Storage in a local folder: links, locks, crashes, rights, and what others put there."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import pytest

from ekiben import folder as module
from ekiben.errors import AccessDenied, NoCapacity, NotFound, ProviderError, Unavailable
from ekiben.folder import FRESH_S, system_error
from ekiben.storage import Storage, open_storage
from tests.waiting import PATIENCE_S


def root(folder: Storage) -> Path:
    return Path(unquote(folder.uri()).removeprefix("file://"))


def files(folder: Storage) -> set[str]:
    return {str(path.relative_to(root(folder))) for path in root(folder).rglob("*") if path.is_file()}


def test_each_write_has_an_etag_of_its_own(folder: Storage) -> None:
    seen = {folder.put("k", b"%03d" % n).etag for n in range(200)}
    assert len(seen) == 200
    os.utime(root(folder) / "k", (4_000_000_000, 4_000_000_000))
    ahead = folder.head("k").etag
    assert folder.put("k", b"999").etag not in {*seen, ahead}
    assert folder.head("k").modified > "2096"


def test_links_are_not_followed(folder: Storage, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root(folder) / "dir").symlink_to(outside)
    (root(folder) / "file").symlink_to(outside / "secret")
    (root(folder) / "gone").symlink_to(outside / "nothing")
    folder.put("k", b"x")
    calls: list[Callable[[], object]] = [
        lambda: folder.get("dir/secret"), lambda: folder.head("dir/secret"), lambda: folder.put("dir/new", b""),
        lambda: folder.put_if_absent("dir/new", b""), lambda: folder.delete("dir/secret"), lambda: folder.get("file"),
        lambda: folder.head("file"), lambda: folder.copy("file", "copy"), lambda: folder.copy("k", "dir/k"),
        lambda: folder.download("file", tmp_path / "down"), lambda: list(folder.list("dir/")),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(AccessDenied, match="symbolic link"):
            call()
    assert [found.key for found in folder.list()] == ["k"]
    folder.put("file", b"mine")
    folder.delete("gone")
    assert not (root(folder) / "file").is_symlink()
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_a_linked_reserve_is_refused(folder: Storage, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (root(folder) / ".ekiben").symlink_to(tmp_path / "outside")
    with pytest.raises(AccessDenied, match="symbolic link"):
        folder.put("k", b"x")
    assert os.listdir(tmp_path / "outside") == []


def test_what_others_put_there(folder: Storage) -> None:
    (root(folder) / "made by hand.csv").write_bytes(b"1,2")
    (root(folder) / "sub").mkdir()
    (root(folder) / "half#1").write_bytes(b"")
    (root(folder) / "line\nbreak").write_bytes(b"")
    (root(folder) / os.fsdecode(b"latin-\xe9")).write_bytes(b"")
    os.mkfifo(root(folder) / "pipe")
    assert [found.key for found in folder.list()] == ["made by hand.csv"]
    for key in ("pipe", "sub"):
        with pytest.raises(NotFound):
            folder.get(key)
        folder.delete(key)
    assert (root(folder) / "pipe").exists()
    assert (root(folder) / "sub").is_dir()


def test_an_object_is_no_folder(folder: Storage) -> None:
    folder.put("a/b", b"x")
    with pytest.raises(ProviderError, match="below"):
        folder.put("a", b"")
    with pytest.raises(ProviderError, match="an object itself"):
        folder.put("a/b/c", b"")
    assert files(folder) - {".ekiben/lock"} == {"a/b"}
    folder.delete("a/b")
    assert not (root(folder) / "a").exists(), "empty folders go with their last object"
    folder.put("a", b"")


def test_a_long_path_is_refused(folder: Storage) -> None:
    key = "/".join(["é" * 100] * 5)
    assert folder.put(key, b"x").key == key
    with pytest.raises(ProviderError, match="too long"):
        raise system_error("local", "write", OSError(errno.ENAMETOOLONG, ""))


@contextmanager
def nobody() -> Iterator[None]:
    """Without the rights of root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_folder_can_be_read() -> None:
    with tempfile.TemporaryDirectory() as name:
        locked = Path(name)
        made = open_storage(locked.as_uri(), provider="local")
        made.put("k", b"x")
        (locked / "own").mkdir()
        (locked / "own" / "secret").touch(mode=0o000)
        for path in (locked / ".ekiben" / "staging", locked / ".ekiben", locked / "own", locked):
            path.chmod(0o555)
        with nobody():
            assert made.get("k") == b"x"
            assert len(list(made.list())) == 2
            calls: list[Callable[[], object]] = [
                lambda: made.put("k", b"y"), lambda: made.put("new/k", b""), lambda: made.put_if_absent("l", b""),
                lambda: made.put_if_match("k", b"y", made.head("k").etag), lambda: made.delete("k"),
                lambda: made.get("own/secret"),
            ]  # fmt: skip
            for call in calls:
                with pytest.raises(AccessDenied, match="^local: cannot .* permission denied. Check") as caught:
                    call()
                assert isinstance(caught.value.__cause__, OSError)
            assert made.get("k") == b"x"
        for path in (locked, locked / ".ekiben", locked / ".ekiben" / "staging", locked / "own"):
            path.chmod(0o755)


@pytest.mark.parametrize(
    ("number", "kind", "why"),
    [
        (errno.ENOSPC, NoCapacity, "full"),
        (errno.EROFS, AccessDenied, "read-only"),
        (errno.EIO, ProviderError, "/output"),
    ],
)
def test_the_system_is_translated(number: int, kind: type[ProviderError], why: str) -> None:
    error = system_error("local", "write 'k'", OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert why in str(error)


def run(program: str, folder: Storage) -> subprocess.Popen[str]:
    text = f"import sys; from ekiben.storage import open_storage; store = open_storage({folder.uri()!r})\n{program}"
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)


def test_a_write_that_fails_half_way_changes_nothing(folder: Storage) -> None:
    folder.put("k", b"old")
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: store.put('k', b'x' * 5_000_000)\nexcept Exception as error: print(type(error).__name__, error)"
    )
    with run(program, folder) as process:
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert said.startswith("ProviderError file: cannot write 'k': File too large")
    assert folder.get("k") == b"old"
    assert files(folder) == {"k", ".ekiben/lock"}


def test_a_writer_that_is_killed_leaves_the_object_whole_and_no_lock(folder: Storage) -> None:
    folder.put("k", b"0" * 3_000_000)
    program = "while True:\n  for n in '123456789': store.put('k', n.encode() * 3_000_000); print(n, flush=True)"
    for _ in range(3):
        with run(program, folder) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        data = folder.get("k")
        assert (len(data), len(set(data))) == (3_000_000, 1)
        folder.put("k", b"a" * 3_000_000)
    assert [found.key for found in folder.list()] == ["k"]


def test_what_a_killed_writer_left_is_swept_by_the_next(folder: Storage) -> None:
    folder.put("k", b"x")
    staging = root(folder) / ".ekiben" / "staging"
    for name, age_s in (("left", FRESH_S + 1), ("held", FRESH_S + 1), ("new", 0)):
        (staging / name).write_bytes(b"half")
        then = (staging / name).stat().st_mtime - age_s
        os.utime(staging / name, (then, then))
    with open(staging / "held", "rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        open_storage(folder.uri()).put("k", b"y")
    assert sorted(os.listdir(staging)) == ["held", "new"], "one is being written, one may be in a moment"


def test_a_lock_that_is_never_released(folder: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.put("k", b"x")
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.05)
    with open(root(folder) / ".ekiben" / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="fuser"):
            folder.put("k", b"y")
        assert folder.get("k") == b"x", "readers take no lock"
    folder.put("k", b"y")


def test_processes_count_together(folder: Storage) -> None:
    folder.put("n", b"0")
    program = (
        "from ekiben.errors import PreconditionFailed\n"
        "for _ in range(25):\n  while True:\n    etag = store.head('n').etag; n = int(store.get('n'))\n"
        "    try: store.put_if_match('n', b'%d' % (n + 1), etag); break\n    except PreconditionFailed: pass\n"
    )
    writers = [run(program, folder) for _ in range(4)]
    assert [writer.wait(timeout=120) for writer in writers] == [0] * 4
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.close()
    assert folder.get("n") == b"100"
