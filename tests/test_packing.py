"""The canonical archive: one digest for the same names and bytes, and nothing unpacked that is not what was promised."""

from __future__ import annotations

import io
import json
import os
import random
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ekiben import packing
from ekiben.errors import IntegrityError, NotFound, ProviderError, SpecError
from ekiben.packing import archive, assemble
from tests.waiting import PATIENCE_S

GOLDEN = {"a": b"", "b/c.sh": b"#!/bin/sh\n", "b/\u00e9": b"\0\xff" * 300, "n" * 130: b"long"}
GOLDEN_SHA256 = "df435d22e1b36f611c9236a1d7ff21fc2513f2ddacff25e4f57c855a0658e391"

segments = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\\x7f"), min_size=1, max_size=12
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 100)
trees = st.dictionaries(
    st.lists(segments, min_size=1, max_size=3).map("/".join), st.binary(max_size=40) | st.just(b"#!/bin/sh"), max_size=8
).filter(lambda tree: not any(other.startswith(f"{name}/") for name in tree for other in tree))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that may hold read-only trees."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)
        archive.remove(Path(made))
        Path(made).mkdir()


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def lay(tree: dict[str, bytes], root: Path, seed: int = 0) -> Path:
    """`tree` as files, in some order, with some modes and times."""
    chance = random.Random(seed)
    names = list(tree)
    chance.shuffle(names)
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tree[name])
        path.chmod(chance.choice((0o600, 0o644, 0o755, 0o777, 0o400)))
        os.utime(path, (chance.randrange(2**31), chance.randrange(2**31)))
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def forged(folder: Path, *members: tarfile.TarInfo, data: bytes = b"data") -> tuple[Path, str]:
    """An archive with whatever members, under its right SHA-256."""
    path = folder / "forged.tar"
    with tarfile.open(path, "w") as tar:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(data))
    return path, archive.sha256(path)


def member(name: str, type: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type, link
    return info


@given(tree=trees, one=st.integers(0, 99), other=st.integers(0, 99))
def test_the_digest_is_of_names_and_bytes_alone(tree: dict[str, bytes], one: int, other: int) -> None:
    with tempfile.TemporaryDirectory() as made:
        first = archive.write(archive.files(lay(tree, Path(made, "a"), one)), Path(made, "out"))
        second = archive.write(archive.files(lay(tree, Path(made, "b"), other)), Path(made, "other"))
        assert first.sha256 == second.sha256 == archive.digest(tree) == archive.sha256(first.path)
        assert first.path.read_bytes() == second.path.read_bytes()


@given(tree=trees)
def test_what_is_packed_is_unpacked_read_only_and_verified(tree: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as made:
        packed = archive.write(tree, Path(made))
        into = archive.unpack(packed.path, packed.sha256, Path(made, "x", "tree"))
        try:
            assert contents(into) == tree
            archive.verify(into, packed.sha256)
            for path in (into, *into.rglob("*")):
                script = path.is_file() and path.read_bytes().startswith(b"#!")
                assert stat.S_IMODE(path.stat().st_mode) == (0o555 if path.is_dir() or script else 0o444)
        finally:
            archive.remove(into)
        assert not into.exists()


@given(tree=trees, data=st.data())
def test_one_flipped_bit_anywhere_is_refused(tree: dict[str, bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as made:
        packed = archive.write(tree, Path(made))
        whole = bytearray(packed.path.read_bytes())
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        packed.path.write_bytes(whole)
        with pytest.raises(IntegrityError, match="corrupted"):
            archive.unpack(packed.path, packed.sha256, Path(made, "tree"))
        assert os.listdir(made) == [packed.path.name]


@given(tree=trees.filter(bool), data=st.data())
def test_a_tree_that_was_changed_is_found_out_and_replaced(tree: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(tree)))
    with tempfile.TemporaryDirectory() as made:
        packed = archive.write(tree, Path(made))
        into = archive.unpack(packed.path, packed.sha256, Path(made, "tree"))
        for path in (into, *into.rglob("*")):
            path.chmod(0o755)
        change = data.draw(st.sampled_from(("edit", "add", "delete", "link")))
        if change == "edit":
            (into / name).write_bytes(tree[name] + b"x")
        elif change == "add":
            (into / "new\u00e9").write_bytes(b"")
        else:
            (into / name).unlink()
            if change == "link":
                (into / name).symlink_to("/etc/passwd")
        with pytest.raises(IntegrityError):
            archive.verify(into, packed.sha256)
        assert contents(archive.unpack(packed.path, packed.sha256, into)) == tree
        archive.verify(into, packed.sha256)
        archive.remove(into)


def test_the_format_never_changes() -> None:
    assert archive.digest(GOLDEN) == GOLDEN_SHA256


@pytest.mark.parametrize(
    "env",
    [
        {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "1"},
        {"TZ": "America/New_York", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2", "SOURCE_DATE_EPOCH": "7"},
    ],
)
def test_zone_locale_umask_folder_and_hash_seed_do_not_matter(env: dict[str, str], folder: Path) -> None:
    program = (
        "import os, sys; os.umask(int(sys.argv[2], 8)); from pathlib import Path; from ekiben.packing import archive; "
        "print(archive.write(archive.files(Path(sys.argv[1])), Path('out')).sha256)"
    )
    source = lay(GOLDEN, folder / "deep" / "er")
    for umask in ("077", "000"):
        done = subprocess.run(
            [sys.executable, "-c", program, source, umask],
            cwd=folder,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == GOLDEN_SHA256, done.stderr


@pytest.mark.parametrize(
    "bad",
    [
        member("../out"),
        member("a/../../out"),
        member("/tmp/out"),
        member("./out"),
        member("a//b"),
        member("a\\b"),
        member("a\nb"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("hard", tarfile.LNKTYPE, "fine"),
        member("device", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
        member("folder", tarfile.DIRTYPE),
        member("fine"),
        member("fine/below"),
    ],
    ids=lambda bad: f"{bad.name}-{bad.type.decode()}",
)
def test_members_that_climb_link_or_clash_are_refused_even_under_the_right_digest(
    bad: tarfile.TarInfo, folder: Path
) -> None:
    path, digest = forged(folder, member("fine"), bad)
    with pytest.raises(IntegrityError):
        archive.unpack(path, digest, folder / "in" / "tree")
    assert os.listdir(folder / "in") == []
    assert not (folder / "out").exists()


@pytest.mark.parametrize("data", [b"", b"no tar at all", b"\0" * 512])
def test_what_is_no_archive_is_refused_or_empty(data: bytes, folder: Path) -> None:
    path = folder / "x.tar"
    path.write_bytes(data)
    if data.strip(b"\0") or not data:
        with pytest.raises(IntegrityError):
            archive.unpack(path, archive.sha256(path), folder / "tree")
    else:
        assert contents(archive.unpack(path, archive.sha256(path), folder / "tree")) == {}


def test_an_archive_cut_short_is_refused(folder: Path) -> None:
    packed = archive.write({"a": b"x" * 5000}, folder)
    packed.path.write_bytes(packed.path.read_bytes()[:1000])
    with pytest.raises(IntegrityError):
        archive.unpack(packed.path, archive.sha256(packed.path), folder / "tree")


@pytest.mark.parametrize("name", ["..", "a/../b", "/a", "", "a//b", "./a", "a\\b", "a\tb", "a\udc80"])
def test_names_that_do_not_travel_are_refused(name: str, folder: Path) -> None:
    with pytest.raises(SpecError, match="cannot be packed"):
        archive.write({name: b""}, folder)
    assert os.listdir(folder) == []


def test_links_and_devices_in_a_source_are_refused_by_name(folder: Path) -> None:
    (folder / "src").mkdir()
    (folder / "src" / "link").symlink_to("/etc/passwd")
    with pytest.raises(SpecError, match=r"src/link' cannot be packed: it is a link"):
        archive.files(folder / "src")
    (folder / "src" / "link").unlink()
    os.mkfifo(folder / "src" / "pipe")
    with pytest.raises(SpecError, match="neither a file nor a folder"):
        archive.files(folder / "src")


def test_a_folder_that_is_not_there_is_not_found(folder: Path) -> None:
    with pytest.raises(NotFound, match="no such folder"):
        packing.bundle(folder / "absent")


def test_a_write_that_fails_leaves_nothing(folder: Path) -> None:
    with pytest.raises(ProviderError, match="cannot write an archive"):
        archive.write({"a": b"1", "b": folder / "gone"}, folder / "out")
    assert os.listdir(folder / "out") == []


def test_unpacking_where_one_may_not_write_says_so(folder: Path) -> None:
    packed = archive.write({"a": b""}, folder)
    (folder / "file").write_bytes(b"")
    with pytest.raises(ProviderError, match="cannot unpack into"):
        archive.unpack(packed.path, packed.sha256, folder / "file" / "tree")


def test_many_who_unpack_at_once_get_the_same_tree(folder: Path) -> None:
    packed = archive.write({f"d{i}/f{i}": bytes(1000) for i in range(50)}, folder)
    start, failures = threading.Barrier(8), []

    def run() -> None:
        start.wait(PATIENCE_S)
        try:
            archive.verify(archive.unpack(packed.path, packed.sha256, folder / "tree"), packed.sha256)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert failures == []
    assert sorted(os.listdir(folder)) == [packed.path.name, "tree"]


def test_a_bundle_has_the_source_and_not_what_lies_about_in_it(folder: Path) -> None:
    source = {"main.py": b"1", "sub/data.csv": b"2", "caf\u00e9.txt": b"3"}
    noise = {
        ".DS_Store": b"", ".git/config": b"", ".env": b"SECRET=1", "__pycache__/main.cpython-311.pyc": b"", "sub/x.pyc": b"",
        ".venv/bin/python": b"", "venv/bin/python": b"", "sub/main.py~": b"", "x.egg-info/PKG-INFO": b"",
    }  # fmt: skip
    clean = packing.bundle(lay(source, folder / "clean"))
    noisy = packing.bundle(lay(source | noise, folder / "noisy"))
    assert clean.sha256 == noisy.sha256
    assert contents(archive.unpack(clean.path, clean.sha256, folder / "tree")) == source
    extra = packing.bundle(folder / "clean", extra={"more.txt": b"4"})
    assert contents(archive.unpack(extra.path, extra.sha256, folder / "more")) == {**source, "more.txt": b"4"}


TEMPLATE = {
    "bento.yaml": b"name: tiny\nversion: template\nx: 1\n",
    "src/service.py": b"",
    "env/docker/entrypoint.sh": b"#!/bin/sh",
}
SIGNATURE = {"columns": ["x"], "sample": {"request": {"x": 1}, "response": 2}}


def test_a_bento_is_the_template_the_model_and_the_signature(folder: Path) -> None:
    template = archive.write(TEMPLATE, folder)
    model = lay({"model.json": b"{}", "deep/w.bin": b"\0", ".DS_Store": b"", ".hidden": b"kept"}, folder / "model")
    bento = packing.pack(template.path, model, SIGNATURE, sha256=template.sha256, into=folder / "out")
    found = contents(archive.unpack(bento.path, bento.sha256, folder / "tree"))
    version = found["bento.yaml"].decode().split("version: ")[1].split("\n")[0]
    assert len(version) == 16
    assert found == {
        **TEMPLATE,
        "bento.yaml": TEMPLATE["bento.yaml"].replace(b"template", version.encode()),
        "ekiben.json": b'{"sample":{"request":{"x":1},"response":2},"schema":1,"signature":{"columns":["x"]}}',
        "src/model/model.json": b"{}",
        "src/model/deep/w.bin": b"\0",
        "src/model/.hidden": b"kept",
    }


def test_what_the_job_says_of_a_fast_path_is_in_the_manifest_by_itself(folder: Path) -> None:
    template, model = archive.write(TEMPLATE, folder), lay({"w": b""}, folder / "model")
    stated = {"kind": "k", "bound": 0.0, "max_difference": 0.0}
    bento = packing.pack(template.path, model, {**SIGNATURE, "fast_path": stated}, into=folder / "out")
    manifest = json.loads(contents(archive.unpack(bento.path, bento.sha256, folder / "tree"))["ekiben.json"])
    assert (manifest["fast_path"], manifest["signature"]) == (stated, {"columns": ["x"]})
    assert bento.sha256 != packing.pack(template.path, model, SIGNATURE, into=folder / "other").sha256


def test_a_bento_s_digest_follows_from_its_inputs_alone(folder: Path) -> None:
    template = archive.write(TEMPLATE, folder)

    def digest(model: dict[str, bytes], signature: dict[str, object], seed: int) -> str:
        root = lay(model, folder / f"model-{seed}", seed)
        return packing.pack(template.path, root, signature, into=folder / f"out-{seed}").sha256

    base = digest({"a": b"1", "b": b"2"}, SIGNATURE, 1)
    assert digest({"b": b"2", "a": b"1"}, dict(reversed(SIGNATURE.items())), 2) == base
    assert len({base, digest({"a": b"2", "b": b"2"}, SIGNATURE, 3), digest({"a": b"1", "c": b"2"}, SIGNATURE, 4)}) == 3
    assert digest({"a": b"1", "b": b"2"}, {**SIGNATURE, "columns": ["y"]}, 5) != base


@pytest.mark.parametrize(
    ("template", "model", "signature", "error", "says"),
    [
        (TEMPLATE, {}, SIGNATURE, SpecError, "no model to pack"),
        (TEMPLATE, {"m": b""}, {"a": float("nan")}, SpecError, "must be JSON"),
        (TEMPLATE, {"m": b""}, {"a": {1, 2}}, SpecError, "must be JSON"),
        ({**TEMPLATE, "src/model/m": b""}, {"m": b""}, SIGNATURE, SpecError, "the model's place"),
        ({"src/service.py": b""}, {"m": b""}, SIGNATURE, IntegrityError, "none of ours"),
        ({"bento.yaml": b"version: abc\n"}, {"m": b""}, SIGNATURE, IntegrityError, "none of ours"),
    ],
)
def test_what_cannot_be_a_bento_is_refused(
    template: dict[str, bytes], model: dict[str, bytes], signature: dict[str, object], error: type[Exception], says: str,
    folder: Path,
) -> None:  # fmt: skip
    packed = archive.write(template, folder)
    with pytest.raises(error, match=says):
        packing.pack(packed.path, lay(model, folder / "model"), signature, into=folder / "out")
    assert not (folder / "out").exists()


def test_another_template_than_the_one_named_is_refused(folder: Path) -> None:
    template = archive.write(TEMPLATE, folder)
    with pytest.raises(IntegrityError):
        assemble.pack(template.path, lay({"m": b""}, folder / "model"), SIGNATURE, sha256="0" * 64)
