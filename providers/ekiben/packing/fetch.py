"""A bento by its URI: fetched, its digest found right, unpacked. Nothing of it is loaded here."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ekiben.errors import IntegrityError, NotFound, SpecError
from ekiben.packing import archive

__all__ = ["digest_of", "fetched", "path_of"]

HEXADECIMALS = frozenset("0123456789abcdef")
log = logging.getLogger("ekiben.packing")


def fetched(uri: str, digest: str, folder: Path) -> Path:
    """`folder`, with the bento at `uri` in it, whole or not at all; what is there already is used when it is right.

    Raises IntegrityError when it is not what its digest says, NotFound, and what the storage raises.
    """
    if folder.is_dir():
        try:
            archive.verify(folder, digest)
        except IntegrityError as error:
            log.warning("the bento is fetched again: %s", error)
            archive.remove(folder)
        else:
            return folder
    with _tar(uri) as tar:
        return archive.unpack(tar, digest, folder)


def digest_of(name: str) -> str:
    """The digest that the name of an archive, or its URI, is made of; empty when it is made of none."""
    stem = name.rpartition("/")[2].removesuffix(".tar")
    return stem if len(stem) == 64 and set(stem) <= HEXADECIMALS else ""


def path_of(uri: str) -> Path:
    """The path of a file:// URI. Raises SpecError for another, and for one that climbs."""
    parts = urlsplit(uri)
    path = unquote(parts.path)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise SpecError(f"The URI {uri!r} is no file on this machine: it must begin with file:///.")
    if ".." in path.split("/"):
        raise SpecError(f"The URI {uri!r} climbs (`..`); name the place directly.")
    return Path(path)


@contextmanager
def _tar(uri: str) -> Iterator[Path]:
    if uri.startswith("file:"):
        path = path_of(uri)
        if not path.is_file():
            raise NotFound("ekiben", f"fetch the bento {uri}", "there is no such file", "Register the version again")
        yield path
        return
    from ekiben.storage import open_storage

    parent, _, key = uri.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="ekiben-") as folder:
        path = Path(folder) / "bento.tar"
        open_storage(parent).download(key, path)
        yield path
