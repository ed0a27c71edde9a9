"""Buckets (folders), the objects that a program puts in them, and the platform record: what is only files."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ekiben.errors import IntegrityError, NotFound, SpecError
from ekiben.folder import Folder
from ekiben.records import Platform
from ekiben.station.noun import Context, Resource

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["Buckets", "Objects", "Platforms"]

BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,62}", re.ASCII)
CHUNK_BYTES = 1024 * 1024
# In a bucket that its program left on purpose: whose it was. `ekiben inventory` tells it from a leftover by this.
RETAINED = ".ekiben/retained.json"


class Files:
    """Base of the nouns that are files: nothing runs, so nothing starts or stops."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def routes(self) -> Sequence[web.RouteDef]:
        return []

    def metrics(self) -> str:
        return ""


class Buckets(Files):
    """{"retain": bool}: a folder. Deleted with its contents unless `retain` is set."""

    kind = "bucket"

    async def put(self, resource: Resource, before: Resource | None) -> Mapping[str, Any]:
        if not BUCKET.fullmatch(resource.name):
            raise SpecError(f"The bucket name {resource.name!r} will not do: use 2 to 63 of a-z, 0-9 and dashes.")
        _known(resource, {"retain": bool})
        folder = _folder(self.context, resource.name)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / RETAINED).unlink(missing_ok=True)
        return {"uri": folder.as_uri()}

    def exists(self, resource: Resource) -> bool:
        return _folder(self.context, resource.name).is_dir()

    async def delete(self, resource: Resource) -> None:
        folder = _folder(self.context, resource.name)
        if not resource.spec.get("retain", False):
            await asyncio.to_thread(_remove, folder)
        elif folder.is_dir():
            (folder / RETAINED).parent.mkdir(mode=0o700, exist_ok=True)
            _write(folder / RETAINED, json.dumps({"tags": dict(resource.tags)}).encode())


class Objects(Files):
    """{"bucket", "key", "source_path", "sha256"}: a local file, copied into a bucket whole, when its hash is the one promised."""

    kind = "object"

    async def put(self, resource: Resource, before: Resource | None) -> Mapping[str, Any]:
        _known(resource, {"bucket": str, "key": str, "source_path": str, "sha256": str})
        path = self._path(resource)
        if not _folder(self.context, resource.spec["bucket"]).is_dir():
            raise NotFound(
                "local", f"write the object {resource.spec['key']!r}", f"there is no bucket {resource.spec['bucket']!r}"
            )
        bucket = _folder(self.context, resource.spec["bucket"])
        source, sha256 = Path(resource.spec["source_path"]), resource.spec["sha256"]
        await asyncio.to_thread(_copy, source, bucket, resource.spec["key"], sha256)
        if before is not None and self._path(before) != path:
            self._path(before).unlink(missing_ok=True)
        return {"uri": path.as_uri()}

    def exists(self, resource: Resource) -> bool:
        return self._path(resource).is_file()

    async def delete(self, resource: Resource) -> None:
        self._path(resource).unlink(missing_ok=True)

    def _path(self, resource: Resource) -> Path:
        bucket, key = str(resource.spec["bucket"]), str(resource.spec["key"])
        parts = PurePosixPath(key).parts
        if (
            not BUCKET.fullmatch(bucket)
            or not parts
            or key.startswith("/")
            or {"..", "."} & set(key.split("/"))
            or "\0" in key
        ):
            raise SpecError(f"The key {key!r} in the bucket {bucket!r} does not stay inside the bucket.")
        return _folder(self.context, bucket).joinpath(*parts)


class Platforms(Files):
    """{"platform": JSON text}: the Platform record of the stack, as platform.json in the state directory."""

    kind = "record"

    async def put(self, resource: Resource, before: Resource | None) -> Mapping[str, Any]:
        _known(resource, {"platform": str})
        record = Platform.from_json(resource.spec["platform"])
        _write(self._path, (record.to_json() + "\n").encode())
        return {"path": str(self._path)}

    def exists(self, resource: Resource) -> bool:
        return self._path.is_file()

    async def delete(self, resource: Resource) -> None:
        self._path.unlink(missing_ok=True)

    @property
    def _path(self) -> Path:
        return self.context.state_dir / "platform.json"


def _folder(context: Context, bucket: str) -> Path:
    return context.state_dir / "buckets" / bucket


def _known(resource: Resource, keys: Mapping[str, type]) -> None:
    """The spec has these keys, no others (`retain` alone may be left out)."""
    where = f"The {resource.kind} {resource.name!r}"
    if unknown := sorted(set(resource.spec) - set(keys)):
        raise SpecError(f"{where} has no key {unknown[0]!r}: {', '.join(keys)}.")
    for key, kind in keys.items():
        if key not in resource.spec and kind is not bool:
            raise SpecError(f"{where} lacks the key {key!r}.")
        if not isinstance(resource.spec.get(key, False), kind):
            raise SpecError(f"{where}: {key}={resource.spec.get(key)!r} is not a {kind.__name__}.")


def _copy(source: Path, bucket: Path, key: str, sha256: str) -> None:
    if not source.is_absolute():
        raise SpecError(f"source_path={str(source)!r} is not an absolute path.")
    target = bucket / key
    if target.is_file() and _digest(target) == sha256:
        return
    if not source.is_file():
        raise NotFound("local", f"copy {source}", "there is no such file", "Run `ekiben up` again")
    try:
        Folder(bucket, "local").put(key, source, sha256=sha256)
    except IntegrityError as error:
        raise IntegrityError("local", f"copy {source}", error.why, "Run `ekiben up` again") from error


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    fresh.replace(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path) -> None:
    """Delete a tree, read-only folders in it too; whole or found again: it goes under another name first."""
    if not folder.exists():
        return
    gone = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.gone")
    folder.rename(gone)
    for path, _, _ in os.walk(gone):
        os.chmod(path, 0o700)  # noqa: S103 - the owner's own folder, about to be deleted
    shutil.rmtree(gone)
