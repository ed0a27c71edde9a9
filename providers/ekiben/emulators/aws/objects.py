"""Folders of a training job from and to S3."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

__all__ = ["Mirror", "fetch", "pack", "split"]


def split(uri: str) -> tuple[str, str]:
    """Bucket and key. Raises ValueError."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise ValueError(f"{uri!r} is no S3 URI")
    return bucket, key


def fetch(s3: Any, uri: str, into: Path, share: tuple[int, int] = (0, 1)) -> int:
    """All objects whose keys start as `uri` does, below `into`, by what follows; how many. share: which part of how many."""
    bucket, prefix = split(uri)
    into.mkdir(parents=True, exist_ok=True)
    keys = [
        one["Key"]
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for one in page.get("Contents", ())
        if not one["Key"].endswith("/")
    ]
    for key in keys[share[0] :: share[1]]:
        rest = key[len(prefix) :].lstrip("/") or key.rpartition("/")[2]
        target = into / rest
        if ".." in target.parts:
            raise ValueError(f"the key {key!r} leads out of its folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket, key, str(target))
    return len(keys)


def pack(folder: Path, into: Path) -> Path:
    """The files of a folder as a tar.gz."""
    with tarfile.open(into, "w:gz") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    return into


class Mirror:
    """A folder whose files go to S3 whenever they have changed. sent: what is there now is in S3 already."""

    def __init__(self, s3: Any, folder: Path, uri: str, *, sent: bool = True) -> None:
        self._s3, self._folder = s3, folder
        self._bucket, prefix = split(uri)
        self._prefix = prefix.rstrip("/") + "/" if prefix else ""
        self._sent = self._there() if sent else {}

    def send(self) -> None:
        there = self._there()
        for path, mark in there.items():
            if self._sent.get(path) != mark:
                try:
                    self._s3.upload_file(
                        str(path), self._bucket, self._prefix + path.relative_to(self._folder).as_posix()
                    )
                except FileNotFoundError:  # it is gone again
                    continue
                self._sent[path] = mark

    def _there(self) -> dict[Path, tuple[int, int]]:
        found: dict[Path, tuple[int, int]] = {}
        for path in self._folder.rglob("*"):
            try:
                if path.is_file():
                    found[path] = (path.stat().st_mtime_ns, path.stat().st_size)
            except FileNotFoundError:
                continue
        return found
