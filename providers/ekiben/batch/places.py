"""Where input lies and output goes: local paths, names of the platform's storage, and URIs, which obstore opens.

A word with a scheme is a URI; one whose first segment names a storage of the platform is a key in it; all else is a local path
(`./lake/x.csv` where a storage is called lake).
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ekiben.errors import NotFound, SpecError
from ekiben.folder import system_error
from ekiben.packing.fetch import path_of
from ekiben.runtime import Runtime
from ekiben.storage import open_storage

__all__ = ["FORMATS", "File", "found", "resolved", "split"]

FORMATS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet",
           ".orc": "orc"}  # fmt: skip
COMPRESSED = (".gz", ".xz", ".zst")
WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class File:
    """A file of input. `digest`: SHA-256 where it lies on this machine, else the store's etag. `open`: a seekable reader of it."""

    uri: str
    size_bytes: int
    digest: str
    open: Callable[[], Any]
    changed: Callable[[], bool]

    @property
    def format(self) -> tuple[str, str]:
        """(csv, jsonl, parquet or orc; gz, xz, zst or nothing)."""
        return split(self.uri)


def split(name: str) -> tuple[str, str]:
    """A file's format and compression, by its name. Raises SpecError for what is neither read nor written."""
    stem, suffix = os.path.splitext(name.lower())
    packed = suffix[1:] if suffix in COMPRESSED else ""
    format = FORMATS.get(os.path.splitext(stem)[1] if packed else suffix, "")
    if not format or (packed and format in ("parquet", "orc")):
        raise SpecError(
            f"The file {name!r} is of no known kind: its name ends in .csv, .tsv or .jsonl (also .gz, .xz or .zst of these), "
            ".parquet or .orc."
        )
    return format, packed


def resolved(word: str, runtime: Runtime | None) -> Path | str:
    """What a word on the command line means: a path on this machine, or the URI of an object elsewhere."""
    if "://" in word:
        return path_of(word) if word.startswith("file:") else word
    name, slash, key = word.partition("/")
    if slash and runtime is not None and name in runtime.names("storage"):
        storage = runtime.storage(name)
        uri = storage.uri(key) if key else storage.uri() + "/"
        if key.endswith("/") and not uri.endswith("/"):
            uri += "/"
        return resolved(uri, None)
    return Path(os.path.expanduser(word)).absolute()


def found(words: Sequence[str], runtime: Runtime | None) -> list[File]:
    """The files that words name, in the order of the words; those of a folder, prefix or glob sorted by name.

    Hidden files and those half written (`.tmp`, `.part`, `~`) are left out. Raises NotFound, SpecError.
    """
    files: list[File] = []
    for word in words:
        place = resolved(word, runtime)
        there = _local(word, place) if isinstance(place, Path) else _remote(word, place)
        if not there:
            raise NotFound("ekiben", f"read {word!r}", "there is no file of a kind that can be read")
        files.extend(there)
    return files


def _local(word: str, path: Path) -> list[File]:
    if WILD.search(str(path)) and not path.exists():
        literal = [part for part in path.parts if not WILD.search(part)]
        top = Path(*path.parts[: next(i for i, part in enumerate(path.parts) if WILD.search(part))])
        assert literal
        names = sorted(
            p for p in top.glob(str(path.relative_to(top))) if p.is_file() and _data(str(p.relative_to(top)))
        )
        return [_file(p) for p in names]
    if path.is_dir():
        return [_file(p) for p in sorted(path.rglob("*")) if p.is_file() and _data(str(p.relative_to(path)))]
    if not path.exists():
        raise NotFound(
            "ekiben", f"read {word!r}", f"there is no file {path}, and the platform has no storage of that name",
            "Write STORAGE/KEY, a path, or a URI",
        )  # fmt: skip
    split(path.name)
    return [_file(path)]


def _file(path: Path) -> File:
    def stamp() -> tuple[int, ...]:
        now = path.stat()
        return (now.st_ino, now.st_size, now.st_mtime_ns)

    def opened() -> Any:
        import pyarrow as pa

        return pa.OSFile(str(path))

    try:
        before = stamp()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise system_error("ekiben", f"read {str(path)!r}", error) from error

    def changed() -> bool:
        try:
            return stamp() != before
        except OSError:
            return True

    return File(path.as_uri(), before[1], digest, opened, changed)


def _remote(word: str, uri: str) -> list[File]:
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    storage = open_storage(f"{scheme}://{bucket}")
    if wild := WILD.search(key):
        there = [o for o in storage.list(key[: wild.start()]) if fnmatch.fnmatchcase(o.key, key)]
    elif not key or key.endswith("/"):
        there = list(storage.list(key))
    else:
        split(key)
        there = [storage.head(key)]
        key = key.rpartition("/")[0]
    folder = key[: WILD.search(key).start()].rpartition("/")[0] if wild else key  # type: ignore[union-attr]

    def file(found: Any) -> File:
        def opened() -> Any:
            import pyarrow as pa

            return pa.PythonFile(storage.open(found.key, found.etag), mode="r")

        def changed() -> bool:
            return bool(storage.head(found.key).etag != found.etag)

        return File(f"{scheme}://{bucket}/{found.key}", found.size_bytes, f"etag {found.etag}", opened, changed)

    return [file(found) for found in there if _data(found.key.removeprefix(folder))]


def _data(name: str) -> bool:
    """Is this a file of data, by its name below the folder that was named?"""
    parts = name.strip("/").split("/")
    if any(part.startswith(".") for part in parts) or parts[-1].endswith((".tmp", ".part", "~", ".errors.jsonl")):
        return False
    try:
        split(parts[-1])
    except SpecError:
        return False
    return True
