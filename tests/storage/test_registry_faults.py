"""The registry, killed after each write, damaged, and on stores that fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ekiben import registry as module
from ekiben.errors import EkibenError, IntegrityError, Unavailable
from ekiben.records import Event
from ekiben.registry import ObjectRegistry
from ekiben.storage import Storage, open_storage
from tests.storage.observed import Registry, version


class Dying:
    """A storage whose owner is killed before or after its nth write."""

    def __init__(self, storage: Storage, writes: int, *, after: bool) -> None:
        self._storage, self._left, self._after = storage, writes, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)
        if not name.startswith("put"):
            return method

        def write(*args: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise KeyboardInterrupt
            made = method(*args)
            if self._left == 0:
                raise KeyboardInterrupt
            return made

        return write


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("again", [False, True], ids=["another-writes-next", "repeated-next"])
def test_r13_a_crash_at_each_write_heals(folder: Storage, after: bool, again: bool) -> None:
    steps: list[tuple[str, Callable[[ObjectRegistry], object]]] = [
        ("a", lambda registry: registry.register(version("a"))),
        ("b", lambda registry: registry.register(version("b"))),
        ("", lambda registry: registry.decide("tiny:1", "approved", who="me", why="good")),
        ("", lambda registry: registry.alias("tiny:1", "champion", who="me", why="good")),
    ]
    for writes in range(1, 20):
        prefix, crashed = f"registry/r{writes}", 0
        for key, step in steps:
            registry = Registry(Dying(folder, writes, after=after), prefix)  # type: ignore[arg-type]
            whole = Registry(folder, prefix)
            try:
                step(registry)
            except KeyboardInterrupt:
                crashed += 1
                whole.versions()
                if not again and key:
                    whole.register(version(f"{key}-other"))
            step(whole)
        healed = Registry(folder, prefix)
        versions = healed.versions("tiny")
        assert len(versions) == len({v.key for v in versions}) == max(v.version for v in versions)
        assert (healed.version("tiny:1").state, healed.version("tiny@champion").version) == ("approved", 1)
        whats = Counter((d.version, d.what) for d in healed.audit("tiny"))
        assert set(whats.values()) == {1}
        assert {n for n, what in whats if what == "registered"} == {v.version for v in versions}
        if not crashed:
            return
    raise AssertionError("it never got through")


def test_a_decision_that_cannot_be_published_is_recorded(folder: Storage) -> None:
    def refuse(event: Event) -> None:
        raise Unavailable("local", "call the station", "the station does not run", "Start it with `ekiben station`")

    down = ObjectRegistry(folder, "registry/models", provider="local", source="models", publish=refuse)
    down.register(version("a"))
    with pytest.raises(Unavailable) as caught:
        down.decide("tiny:1", "approved", who="me", why="")
    assert str(caught.value) == (
        "local: cannot publish that tiny:1 is approved: the registry has recorded it, but the station does not run. "
        "Start it with `ekiben station`; then repeat the same call, which publishes it."
    )
    up = Registry(folder)
    assert up.version("tiny:1").state == "approved"
    up.decide("tiny:1", "approved", who="me", why="")
    assert [event.subject for event in up.events] == ["tiny:1"]
    assert len(up.audit("tiny")) == 2


INDEX = "registry/models/tiny/index.json"


@pytest.mark.parametrize(
    ("key", "damage", "why"),
    [
        (INDEX, lambda text: b"", "not JSON"),
        (INDEX, lambda text: text[:-9], "not JSON"),
        (INDEX, lambda text: b"\xff\xfe", "not JSON"),
        (INDEX, lambda text: b"[]", "an object"),
        (INDEX, lambda text: text.replace(b'"tiny"', b'"huge"'), "huge"),
        (INDEX, lambda text: text.replace(b'"champion":1', b'"champion":7'), "alias"),
        (INDEX, lambda text: text.replace(b'"schema":1', b'"schema":2'), "schema"),
        (INDEX, lambda text: text.replace(b'"pending"', b'"lovely"'), "lovely"),
        (INDEX, lambda text: text.replace(b'"seq":4,"tail"', b'"seq":9,"tail"'), "audit"),
        (INDEX, lambda text: text.replace(b'"2":', b'"02":'), "number"),
        (INDEX, None, "gone"),
    ],
)  # fmt: skip
def test_a_damaged_index_is_named_and_left_alone(
    local: Registry, key: str, damage: Callable[[bytes], bytes] | None, why: str
) -> None:
    for name in "ab":
        local.register(version(name))
    local.alias("tiny:1", "champion", who="me", why="")
    local.alias("tiny:2", "next", who="me", why="")
    sound = local.storage.get(key)
    if damage:
        assert damage(sound) != sound
        local.storage.put(key, damage(sound))
    else:
        local.storage.delete(key)
    before = {found.key: found.etag for found in local.storage.list()}
    calls: list[Callable[[], object]] = [
        lambda: local.register(version("c")), lambda: local.version("tiny:1"), lambda: local.audit("tiny"),
        lambda: local.decide("tiny:1", "approved", who="me", why=""), lambda: local.alias("tiny:1", "x", who="me", why=""),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(IntegrityError, match=f"index.json: .*{why}"):
            call()
    assert {found.key: found.etag for found in local.storage.list()} == before
    local.storage.put(key, sound)
    assert local.register(version("c")).version == 3


def test_a_manifest_or_an_entry_that_was_touched_is_found(local: Registry) -> None:
    manifest, entry = "registry/models/tiny/versions/1.json", "registry/models/tiny/audit/00000001.json"
    local.register(version("a"))
    local.register(version("b"))
    sound = local.storage.get(manifest)
    local.storage.put(manifest, sound.replace(b"tiny", b"huge"))
    with pytest.raises(IntegrityError, match="not what was registered"):
        local.version("tiny:1")
    local.storage.delete(manifest)
    with pytest.raises(IntegrityError, match="gone"):
        local.versions()
    local.storage.put(manifest, sound)
    local.storage.delete(entry)
    with pytest.raises(IntegrityError, match="entries 1 are gone"):
        local.audit("tiny")
    assert local.version("tiny:1").key == "a"


def test_an_index_older_than_its_audit_overwrites_nothing(local: Registry) -> None:
    local.register(version("a"))
    old = local.storage.get(INDEX)
    local.decide("tiny:1", "approved", who="me", why="")
    entry = local.storage.get("registry/models/tiny/audit/00000002.json")
    local.storage.put(INDEX, old)
    with pytest.raises(IntegrityError, match="older than the audit"):
        local.decide("tiny:1", "rejected", who="me", why="")
    assert local.storage.get("registry/models/tiny/audit/00000002.json") == entry


def test_contention_is_bounded(local: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONTENTION_TIMEOUT_S", 0.0)
    local.register(version("a"))

    class Busy:
        def __getattr__(self, name: str) -> Any:
            return getattr(local.storage, name)

        def put_if_match(self, key: str, data: bytes, etag: str) -> Any:
            return local.storage.put_if_match(key, data, "stale")

    with pytest.raises(Unavailable, match="kept changing") as caught:
        Registry(Busy()).alias("tiny:1", "champion", who="me", why="")  # type: ignore[arg-type]
    assert caught.value.retryable


def test_a_store_that_fails_is_an_error_of_ours(tmp_path: Path) -> None:
    nowhere = Registry(open_storage((tmp_path / "nix").as_uri()))
    with pytest.raises(EkibenError, match="does not exist"):
        nowhere.register(version("a"))
