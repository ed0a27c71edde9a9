"""The canonical archive: the same names and bytes are the same tar, whatever the day, machine, umask or order of files.

A tar (POSIX pax, no compression) of regular files only, sorted by the bytes of their names, with time 0, owner 0 and a
mode that follows from the contents: 0755 for what starts with `#!`, else 0644. Its SHA-256 is the name of what it holds.
Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

from ekiben.errors import IntegrityError, NotFound, ProviderError, SpecError

__all__ = [
    "Bundle",
    "Content",
    "check_name",
    "digest",
    "disk",
    "files",
    "remove",
    "sha256",
    "unpack",
    "verify",
    "write",
]

Content = Path | bytes

CHUNK_BYTES = 1 << 20


class Bundle(NamedTuple):
    """A canonical archive on this machine, and the SHA-256 (hex) of its bytes."""

    path: Path
    sha256: str


def sha256(path: Path) -> str:
    """The SHA-256 (hex) of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_name(name: str) -> str:
    """`name`, when it is a relative path that means the same file everywhere. Raises SpecError."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise SpecError(f"The path {name!r} cannot be packed: it is empty, absolute or climbs out of its folder.")
    if "\\" in name or any(ord(char) < 32 or ord(char) == 127 for char in name):
        raise SpecError(
            f"The path {name!r} cannot be packed: it has a backslash or a control character. Rename the file."
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise SpecError(f"The path {name!r} cannot be packed: its name is not UTF-8. Rename the file.") from None
    return name


def files(folder: Path, skip: Callable[[str], bool] = lambda name: False) -> dict[str, Path]:
    """The regular files below `folder`: "a/b" -> path. `skip` is given the name of each file or folder, and prunes it.

    Raises SpecError for what cannot be packed (a link, a device, a name that does not travel), NotFound without the folder.
    """
    if not folder.is_dir():
        raise NotFound("ekiben", f"pack {str(folder)!r}", "there is no such folder")
    found: dict[str, Path] = {}

    def walk(at: Path, prefix: str) -> None:
        with os.scandir(at) as entries:
            for entry in entries:
                if skip(entry.name):
                    continue
                name = check_name(prefix + entry.name)
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    walk(Path(entry.path), name + "/")
                elif stat.S_ISREG(mode):
                    found[name] = Path(entry.path)
                else:
                    what = "a link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                    raise SpecError(f"{entry.path!r} cannot be packed: it is {what}. Put a plain file there instead.")

    with disk("read", folder):
        walk(folder, "")
    return found


def write(members: Mapping[str, Content], folder: Path) -> Bundle:
    """Write the canonical archive of `members` as `folder`/<sha256>.tar, whole or not at all."""
    with disk("write an archive in", folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                found = _archive(members, file.write)
            target = folder / f"{found}.tar"
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    return Bundle(target, found)


def digest(members: Mapping[str, Content]) -> str:
    """The SHA-256 (hex) of the canonical archive of `members`, without writing it."""
    return _archive(members, lambda data: None)


def unpack(tar: Path, digest: str, into: Path) -> Path:
    """Unpack an archive as the read-only folder `into`, whole or not at all, after its SHA-256 has been found right.

    Where the same is unpacked already nothing is done; what is there and differs is replaced. Raises IntegrityError.
    """
    if into.exists():
        with contextlib.suppress(IntegrityError):
            verify(into, digest)
            return into
    with disk("unpack into", into):
        into.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{into.name[:32]}.", suffix=".tmp", dir=into.parent))
        try:
            _extract(tar, digest, temporary)
            _move(temporary, into, digest)
        finally:
            remove(temporary)
    return into


def verify(tree: Path, digest: str) -> None:
    """Raise IntegrityError unless `tree` holds the files that the archive of this SHA-256 holds, and no others."""
    try:
        found = _archive(files(tree), lambda data: None)
    except (SpecError, NotFound) as error:
        raise IntegrityError("ekiben", f"verify {str(tree)!r}", str(error).rstrip(".")) from error
    if found != digest:
        raise IntegrityError(
            "ekiben", f"verify {str(tree)!r}", f"its files have the digest {found}, not {digest}: they were changed",
            "Delete the folder; it will be fetched again",
        )  # fmt: skip


def remove(tree: Path) -> None:
    """Delete a folder made by `unpack`, read-only as it is; silent where nothing is."""
    for at, _, names in os.walk(tree):
        with contextlib.suppress(OSError):
            os.chmod(at, 0o700)
        for name in names:
            Path(at, name).unlink(missing_ok=True)
    for at, _, _ in os.walk(tree, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(at)


def _archive(members: Mapping[str, Content], sink: Callable[[bytes], object]) -> str:
    hashed = hashlib.sha256()

    class Tee(io.RawIOBase):
        def write(self, data: bytes) -> int:  # type: ignore[override]
            hashed.update(data)
            sink(data)
            return len(data)

    with tarfile.open(fileobj=Tee(), mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(members, key=lambda name: check_name(name).encode()):
            content = members[name]
            with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
                info = tarfile.TarInfo(name)
                info.size = len(content) if isinstance(content, bytes) else os.fstat(file.fileno()).st_size
                info.mode = _mode(file)
                tar.addfile(info, file)
    return hashed.hexdigest()


def _mode(file: IO[bytes]) -> int:
    script = file.read(2) == b"#!"
    file.seek(0)
    return 0o755 if script else 0o644


def _extract(tar: Path, digest: str, into: Path) -> None:
    operation = f"unpack {str(tar)!r}"
    with tar.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise IntegrityError(
                "ekiben", operation, f"its SHA-256 is {found}, not {digest}: it is corrupted or another one",
                "Fetch it again, or pack it again",
            )  # fmt: skip
        file.seek(0)
        folders = {into}
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if member.type != tarfile.REGTYPE or member.issparse():
                        raise SpecError(f"It holds {member.name!r}, which is no regular file.")
                    target = into / check_name(member.name)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    folders.update(parent for parent in target.parents if parent.is_relative_to(into))
                    _copy(archive, member, target)
        except (
            tarfile.TarError,
            EOFError,
            ValueError,
            FileExistsError,
            NotADirectoryError,
            IsADirectoryError,
        ) as error:
            raise IntegrityError("ekiben", operation, str(error).rstrip(".")) from error
    for folder in folders:
        os.chmod(folder, 0o555)  # noqa: S103


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    source = archive.extractfile(member)
    assert source is not None, "a regular member has contents"
    with source, target.open("xb") as file:
        left = member.size
        while left:
            chunk = source.read(min(left, CHUNK_BYTES))
            if not chunk:
                raise EOFError(f"It ends inside {member.name!r}.")
            file.write(chunk)
            left -= len(chunk)
        os.fchmod(file.fileno(), 0o555 if member.mode & 0o100 else 0o444)


def _move(temporary: Path, into: Path, digest: str) -> None:
    """Rename into place; another process may have done the same, or left something that is not it."""
    for _ in range(3):
        try:
            temporary.rename(into)
        except OSError:
            if not into.exists():
                raise
            with contextlib.suppress(IntegrityError):
                verify(into, digest)
                return
            aside = Path(tempfile.mkdtemp(prefix=f".{into.name[:32]}.", suffix=".tmp", dir=into.parent))
            with contextlib.suppress(OSError):
                into.rename(aside / "bad")
            remove(aside)
        else:
            return
    verify(into, digest)


@contextlib.contextmanager
def disk(verb: str, path: Path) -> Iterator[None]:
    """What the disk refuses, as one of our errors: "cannot VERB PATH"."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename and str(error.filename) != str(path) else ""
        raise ProviderError("ekiben", f"{verb} {str(path)!r}", f"{error.strerror or error}{where}") from error
