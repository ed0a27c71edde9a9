"""Storage: the same behaviour on every store."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ekiben import keys
from ekiben.errors import (
    AccessDenied,
    AlreadyExists,
    NotFound,
    PreconditionFailed,
    ProviderError,
    SpecError,
    Unavailable,
)
from ekiben.storage import Storage, open_storage
from tests.fakes.http import Server

ODD_KEYS = [
    "a b",
    "é/駅弁.json",
    "e\u0301",
    "a%20b",
    "a+b&c=d?e",
    "#x",
    "x#y",
    "[{~*'\"`^}]",
    "..a",
    "a..",
    ".hidden",
    "a.b./c",
    "Ａ",
]
BAD_KEYS = [
    "", "/", "/etc/passwd", "..", "../x", "a/../x", "a/..", "./x", "a//b", "a/", "a\x00b", "a\nb", "a\\b", "..\\x", "a|",
    ".ekiben", ".ekiben/lock", "a/.ekiben/x", "part#1", "a#1/b", "\ud800", "x" * 256, "/".join(["x" * 200] * 6),
]  # fmt: skip


@pytest.mark.parametrize("data", [b"", b"\x00\xff", os.urandom(20_000_000)], ids=["empty", "binary", "20MB"])
def test_what_is_put_is_got(store: Storage, tmp_path: Path, data: bytes) -> None:
    made = store.put("k", data)
    assert (made.key, made.size_bytes) == ("k", len(data))
    assert store.get("k") == data
    file = tmp_path / "file"
    file.write_bytes(data)
    assert store.put("f", file).size_bytes == len(data)
    assert store.put_if_absent("g", file).etag == store.head("g").etag
    for key in "fg":
        store.download(key, tmp_path / "new" / key)
        assert (tmp_path / "new" / key).read_bytes() == data
    assert sorted(os.listdir(tmp_path / "new")) == ["f", "g"]


def test_etags_follow_the_bytes(store: Storage) -> None:
    first, second = store.put("k", b"one"), store.put("k", b"two")
    assert first.etag != second.etag
    assert second.etag == store.head("k").etag == next(store.list("k")).etag
    assert store.head("k").modified.endswith("Z")


def test_put_if_absent(store: Storage) -> None:
    def attempt(n: int) -> bool:
        try:
            store.put_if_absent("k", b"%d" % n)
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1
    before = store.get("k")
    with pytest.raises(AlreadyExists, match="'k'"):
        store.put_if_absent("k", b"late")
    assert store.get("k") == before


def test_put_if_match(store: Storage) -> None:
    stale = store.put("k", b"one").etag
    made = store.put_if_match("k", b"two", stale)
    assert made.etag == store.head("k").etag
    for etag in (stale, "nonsense", '"0"'):
        with pytest.raises(PreconditionFailed, match="'k'"):
            store.put_if_match("k", b"three", etag)
    assert store.get("k") == b"two"
    store.delete("k")
    with pytest.raises(PreconditionFailed):
        store.put_if_match("k", b"four", made.etag)
    assert list(store.list()) == []
    with pytest.raises(SpecError, match="etag"):
        store.put_if_match("k", b"five", "")


def test_of_many_updates_exactly_one_wins(store: Storage) -> None:
    etag = store.put("k", b"").etag

    def attempt(n: int) -> bool:
        try:
            store.put_if_match("k", b"%d" % n, etag)
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


def test_what_is_not_there(store: Storage, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"kept")
    store.put("a/b", b"")
    calls: list[Callable[[], object]] = [
        lambda: store.get("nix"), lambda: store.head("nix"), lambda: store.copy("nix", "b"),
        lambda: store.download("nix", kept), lambda: store.get("a"), lambda: store.head("a"), lambda: store.get("a/b/c"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(NotFound, match="'(nix|a|a/b/c)'"):
            call()
    for key in ("nix", "a", "a/b/c"):
        store.delete(key)
    assert kept.read_bytes() == b"kept"
    assert os.listdir(tmp_path) == ["kept"]
    assert [found.key for found in store.list()] == ["a/b"]


def test_list_is_by_characters_and_sorted(store: Storage, kind: str) -> None:
    # A folder cannot hold an object "a" beside "a/b".
    names = ["b", "a/b", "a/bc/d", "a-b", "ab/c", *([] if kind == "file" else ["a"])]
    for name in names:
        store.put(name, b"x")
    for prefix in ("", "a", "a/", "a/b", "a/bc", "a/bc/", "c", "a/b/"):
        assert [found.key for found in store.list(prefix)] == sorted(n for n in names if n.startswith(prefix)), prefix


def test_pages_are_followed(store: Storage, kind: str, gcs_server: Server, azure_server: Server) -> None:
    gcs_server.page = azure_server.page = 3
    names = [f"p/{n:04d}" for n in range(120 if kind == "s3" else 10)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b""), names))
    assert [found.key for found in store.list("p/")] == names


def test_keys_come_back_as_they_were_put(store: Storage) -> None:
    for key in ODD_KEYS:
        store.put(key, key.encode())
    assert sorted(found.key for found in store.list()) == sorted(ODD_KEYS)
    for key in ODD_KEYS:
        assert store.get(key) == key.encode()
        assert store.key(store.uri(key)) == key
        store.copy(key, "copy")
        assert store.get("copy") == key.encode()
        store.delete(key)
    assert [found.key for found in store.list()] == ["copy"]


@pytest.mark.parametrize("bad", BAD_KEYS)
def test_bad_keys_are_refused(bad: str) -> None:
    store = open_storage("memory://bad-keys")
    store.put("a", b"x")
    calls: list[Callable[[], object]] = [
        lambda: store.get(bad), lambda: store.head(bad), lambda: store.put(bad, b""), lambda: store.delete(bad),
        lambda: store.put_if_absent(bad, b""), lambda: store.put_if_match(bad, b"", "e"), lambda: store.copy("a", bad),
        lambda: store.copy(bad, "a"), lambda: store.download(bad, Path("nowhere")),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(SpecError, match="key"):
            call()
    if bad not in ("", "a/"):
        for call in (lambda: list(store.list(bad)), lambda: store.uri(bad)):
            with pytest.raises(SpecError, match="prefix"):
                call()


@given(st.text(max_size=40) | st.text("./\\ #1a|\x00", max_size=12))
def test_no_key_leaves_the_folder(key: str) -> None:
    try:
        keys.check_key(key)
    except SpecError:
        return
    path = os.path.normpath(os.path.join("/root/of/it", key))
    assert path == f"/root/of/it/{key}"


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4).map("/".join))
def test_any_key_makes_the_round_trip(key: str) -> None:
    store = open_storage("memory://keys")
    try:
        store.put(key, b"x")
    except SpecError:
        return
    assert key in [found.key for found in store.list()]
    assert store.key(store.uri(key)) == key
    store.delete(key)


def test_uris(tmp_path: Path) -> None:
    lake = open_storage(f"{tmp_path.as_uri()}/")
    assert lake.uri() == tmp_path.as_uri()
    assert lake.uri("é/a b") == f"{tmp_path.as_uri()}/%C3%A9/a%20b"
    assert lake.key(lake.uri("é/a%20b/")) == "é/a%20b/"
    assert lake.key(lake.uri()) == ""
    assert open_storage("s3://bucket/a b/").uri("é") == "s3://bucket/a b/é"
    for other in (
        f"{tmp_path.as_uri()}-2/x",
        "s3://bucket/x",
        f"{tmp_path.as_uri()}/../x",
        f"{tmp_path.as_uri()}/%2e%2e/x",
        "x",
    ):
        with pytest.raises(SpecError):
            lake.key(other)
    for bad in ("", "lake", "file:lake", "file://lake", "file://host/lake", "ftp://x", "s3://", "s3:///x", "s3://b/../c",
                "s3://user:secret@b", "s3://b?secret=1"):  # fmt: skip
        with pytest.raises(SpecError) as caught:
            open_storage(bad)
        assert "secret=" not in str(caught.value)
        assert "user:" not in str(caught.value)


def test_a_wrong_payload_is_refused(store: Storage, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="does not exist"):
        store.put("k", tmp_path / "nix")
    with pytest.raises(SpecError, match="str"):
        store.put("k", "text")  # type: ignore[arg-type]
    assert list(store.list()) == []


def test_a_download_that_fails_leaves_the_file(store: Storage, tmp_path: Path) -> None:
    store.put("k", b"new")
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ProviderError, match="folder"):
        store.download("k", tmp_path / "folder")
    with pytest.raises(ProviderError, match="file"):
        store.download("k", tmp_path / "file" / "below")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize("kind", ["gs", "az"])
@pytest.mark.parametrize(
    ("status", "error"), [(403, AccessDenied), (401, AccessDenied), (404, NotFound), (400, ProviderError)]
)
def test_refusals_are_translated(
    store: Storage, kind: str, gcs_server: Server, azure_server: Server, status: int, error: type[ProviderError]
) -> None:
    server = gcs_server if kind == "gs" else azure_server
    calls: list[Callable[[], object]] = [
        lambda: store.get("k"), lambda: store.head("k"), lambda: store.put("k", b""), lambda: list(store.list()),
        lambda: store.put_if_absent("k", b""), lambda: store.copy("k", "l"),
    ]  # fmt: skip
    for call in calls:
        server.fail[:] = [status]
        with pytest.raises(error) as caught:
            call()
        assert type(caught.value) is error
        assert caught.value.provider == kind
        assert "http" not in str(caught.value)
        assert caught.value.__cause__ is not None
        server.fail.clear()


@pytest.mark.parametrize("kind", ["gs", "az"])
def test_a_store_that_stumbles_is_asked_again(
    store: Storage, kind: str, gcs_server: Server, azure_server: Server
) -> None:
    server = gcs_server if kind == "gs" else azure_server
    store.put("k", b"x")
    server.fail[:] = [503, 500]
    assert store.get("k") == b"x"
    assert server.fail == []
    server.fail[:] = [503] * 20
    with pytest.raises(Unavailable, match="overloaded") as caught:
        store.get("k")
    assert caught.value.retryable
    assert len(server.fail) >= 10, "the retries are bounded"
    server.fail.clear()


def test_a_store_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA-nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
    with pytest.raises(Unavailable, match="does not answer") as caught:
        open_storage("s3://bucket", provider="aws").get("k")
    assert str(caught.value).startswith("aws: cannot read 'k': ")
    assert "secret" not in str(caught.value)


def test_a_bucket_that_is_not_there(roots: Callable[[str], str], tmp_path: Path) -> None:
    roots("s3")
    for uri in ("s3://no-such-bucket", (tmp_path / "nix").as_uri()):
        nowhere = open_storage(uri)
        with pytest.raises(NotFound):
            nowhere.put("k", b"")
        with pytest.raises(NotFound):
            nowhere.get("k")
        with pytest.raises(NotFound):
            list(nowhere.list())
    assert not (tmp_path / "nix").exists()


def test_it_imports_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys; from ekiben.storage import open_storage; s = open_storage(sys.argv[1]); s.put('k', b'x'); s.get('k'); "
        "print([m for m in sys.modules if m.partition('.')[0] in ('obstore', 'pydantic', 'numpy', 'boto3', 'pulumi')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path.as_uri()], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_readers_never_see_half_a_write(store: Storage) -> None:
    store.put("k", b"a" * 200_000)
    done = threading.Event()

    def write() -> None:
        for letter in b"bcdef":
            store.put("k", bytes([letter]) * 200_000)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        seen = store.get("k")
        assert (len(seen), len(set(seen))) == (200_000, 1)
    thread.join()
