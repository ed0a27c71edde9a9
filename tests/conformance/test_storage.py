"""S: storage (docs/contract.md)."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ekiben.errors import AlreadyExists, EkibenError, NotFound, PreconditionFailed, SpecError

from .conftest import Rig


@pytest.mark.parametrize(
    "data", [b"", b"\x00\xff", "駅弁".encode(), os.urandom(9_000_000)], ids=["empty", "binary", "text", "9MB"]
)
def test_s1_what_was_put_is_got(rig: Rig, key: str, data: bytes, tmp_path: Path) -> None:
    lake = rig.runtime.storage("lake")
    lake.put(key, data)
    assert lake.get(key) == data
    (tmp_path / "file").write_bytes(data)
    lake.put(key + "-file", tmp_path / "file")
    lake.download(key + "-file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_s2_s3_put_writes_over_and_tells_its_etag(rig: Rig, key: str) -> None:
    lake = rig.runtime.storage("lake")
    first, second = lake.put(key, b"one"), lake.put(key, b"two")
    assert (second.key, second.size_bytes) == (key, 3)
    assert first.etag != second.etag
    assert lake.head(key).etag == second.etag == next(lake.list(key)).etag


def test_s4_s5_put_if_absent_lets_exactly_one_succeed(rig: Rig, key: str) -> None:
    lake = rig.runtime.storage("lake")

    def attempt(n: int) -> int:
        try:
            lake.put_if_absent(key, str(n).encode())
        except AlreadyExists:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1
    before = lake.get(key)
    with pytest.raises(AlreadyExists, match=key.rsplit("/", 1)[-1]):
        lake.put_if_absent(key, b"late")
    assert lake.get(key) == before


def test_s6_put_if_match_refuses_a_stale_etag(rig: Rig, key: str) -> None:
    lake = rig.runtime.storage("lake")
    stale = lake.put(key, b"one").etag
    lake.put_if_match(key, b"two", stale)
    with pytest.raises(PreconditionFailed):
        lake.put_if_match(key, b"three", stale)
    assert lake.get(key) == b"two"
    etag = lake.head(key).etag
    lake.delete(key)
    with pytest.raises(PreconditionFailed):
        lake.put_if_match(key, b"four", etag)
    assert not list(lake.list(key))


def test_s7_counting_by_read_and_match_loses_nothing(rig: Rig, key: str) -> None:
    lake = rig.runtime.storage("lake")
    lake.put(key, b"0")

    def count() -> None:
        for _ in range(5):
            while True:
                etag = lake.head(key).etag
                value = int(lake.get(key))
                try:
                    lake.put_if_match(key, str(value + 1).encode(), etag)
                    break
                except PreconditionFailed:
                    continue

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lake.get(key) == b"20"


def test_s8_s9_s14_what_is_not_there(rig: Rig, key: str, tmp_path: Path) -> None:
    lake = rig.runtime.storage("lake")
    (tmp_path / "kept").write_bytes(b"kept")
    for call in (
        lambda: lake.get(key),
        lambda: lake.head(key),
        lambda: lake.copy(key, key + "2"),
        lambda: lake.download(key, tmp_path / "kept"),
    ):
        with pytest.raises(NotFound, match=key.rsplit("/", 1)[-1]):
            call()
    assert (tmp_path / "kept").read_bytes() == b"kept", "S14: what was at the path is as it was"
    lake.delete(key)


def test_s10_s11_list_is_sorted_and_unicode(rig: Rig, key: str) -> None:
    lake = rig.runtime.storage("lake")
    names = [f"{key}/{name}" for name in ("b", "a b", "a%20b", "é/駅弁", "a")]
    for name in names:
        lake.put(name, b"x")
    assert [found.key for found in lake.list(key + "/")] == sorted(names)
    assert [found.key for found in lake.list(key + "/a")] == sorted(n for n in names if n.startswith(key + "/a"))
    assert list(lake.list(key + "/nothing")) == []


@pytest.mark.parametrize(
    "bad", ["", "../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "a\x00b", "a\\..\\b", ".ekiben/x"]
)
def test_s12_s17_a_key_that_climbs_is_refused(rig: Rig, bad: str) -> None:
    lake = rig.runtime.storage("lake")
    for call in (
        lambda: lake.put(bad, b"x"),
        lambda: lake.get(bad),
        lambda: lake.delete(bad),
        lambda: lake.copy("a", bad),
    ):
        with pytest.raises(SpecError):
            call()
    assert not any(found.key.startswith(".ekiben/") for found in lake.list())


def test_s13_a_reader_never_sees_half_a_write(rig: Rig, key: str) -> None:
    lake = rig.runtime.storage("lake")
    lake.put(key, b"a" * 300_000)
    done = threading.Event()

    def write() -> None:
        for letter in b"bcdefgh":
            lake.put(key, bytes([letter]) * 300_000)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        seen = lake.get(key)
        assert len(seen) == 300_000
        assert len(set(seen)) == 1
    thread.join()


def test_s15_copy_keeps_its_source(rig: Rig, key: str) -> None:
    lake = rig.runtime.storage("lake")
    lake.put(key, b"x")
    lake.put(key + "2", b"old")
    lake.copy(key, key + "2")
    assert lake.get(key) == lake.get(key + "2") == b"x"


def test_s16_uri_and_key_are_inverse(rig: Rig, key: str) -> None:
    lake, spare = rig.runtime.storage("lake"), rig.runtime.storage("spare")
    odd = key + "/a b%20é"
    assert lake.key(lake.uri(odd)) == odd
    with pytest.raises(EkibenError):
        lake.key(spare.uri(odd))
