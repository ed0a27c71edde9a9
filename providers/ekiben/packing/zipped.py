"""Zip files for functions in a cloud: the same contents are the same bytes, made once."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ekiben.packing.archive import Bundle, Content, check_name, disk
from ekiben.packing.source import cache_dir

__all__ = ["zipped"]

# The earliest that a zip file can say.
EPOCH = (1980, 1, 1, 0, 0, 0)
MODE = 0o100644


def zipped(members: Mapping[str, Content]) -> Bundle:
    """A zip file of `members` in the cache, named by the digest of what is in it; one that is there is not made again.

    Its sha256 is of the names and contents, not of the file: how deflate packs them is no part of what they are.
    """
    told = {check_name(name): _digest(content) for name, content in members.items()}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    folder = cache_dir() / "bundles"
    target = folder / f"{digest}.zip"
    if not target.exists():
        with disk("write an archive in", folder):
            folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=folder)
            try:
                with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                    for name in sorted(members):
                        info = zipfile.ZipInfo(name, EPOCH)
                        info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, MODE << 16
                        archive.writestr(info, _bytes(members[name]))
                os.replace(temporary, target)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
    return Bundle(target, digest)


def _bytes(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _digest(content: Content) -> str:
    return hashlib.sha256(_bytes(content)).hexdigest()
