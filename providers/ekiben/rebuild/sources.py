"""What a version was made from, fetched and held against what was recorded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ekiben.errors import IntegrityError, NotFound, SpecError
from ekiben.lineage.account import code_of, lock_of, part
from ekiben.packing import archive
from ekiben.records import ModelVersion
from ekiben.runtime import Runtime

__all__ = ["Sources", "fetch"]

AT_ONCE = 8
NAMED = 20


class Sources(NamedTuple):
    """The code, writable as a job may expect it; the lock in it, if any; the folder of the inputs; the bento, unpacked."""

    code: Path
    lock: str
    inputs: Path
    bento: Path


class _File(NamedTuple):
    """A recorded file of an input: where it lies, its SHA-256, and where the job finds it below its input's folder."""

    uri: str
    sha256: str
    name: str


def fetch(runtime: Runtime, version: ModelVersion, folder: Path) -> Sources:
    """Fetch code, inputs and bento of a version into `folder`, each file checked against its recorded digest.

    Raises IntegrityError, which names all that has changed or is missing, at once; SpecError for a version whose run recorded no
    code.
    """
    problems: list[str] = []
    lineage = version.lineage
    inputs = part(lineage, "inputs")
    code = lock = bento = None
    try:
        found = code_of(runtime, part(lineage, "code"), folder / "bundles")
        lock = lock_of(found, str(part(lineage, "environment").get("lock_sha256") or ""))
        code = _own_copy(found, folder / "code")
    except (IntegrityError, NotFound) as error:
        problems.append(f"the code: {error.why}")
    try:
        store = runtime.storage_of(version.bento_uri)
        store.download(store.key(version.bento_uri), folder / "bento.tar")
        bento = archive.unpack(folder / "bento.tar", version.digest, folder / "bento")
        (folder / "bento.tar").unlink()
    except (IntegrityError, NotFound) as error:
        problems.append(f"the bento {version.bento_uri}: {error.why}")
    for name, data in sorted(inputs.items()):
        problems += [f"the input {name}: {problem}" for problem in _input(runtime, data, folder / "inputs" / name)]
    if problems or code is None or lock is None or bento is None:
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise IntegrityError(
            "ekiben", f"rebuild {version.id}", "; ".join(problems[:NAMED]) + more,
            "Put back what was there, from a copy, or train a new version from what is there now",
        )  # fmt: skip
    return Sources(code, lock, folder / "inputs", bento)


def _input(runtime: Runtime, data: Mapping[str, Any], into: Path) -> Iterable[str]:
    """Fetch the files of an input as a run finds them, read-only; what is wrong with them."""
    uri = str(data.get("uri", ""))
    try:
        store = runtime.storage_of(uri)
    except SpecError as error:
        return [str(error).rstrip(".")]
    prefix = store.key(uri)
    cut = len(prefix.rpartition("/")[0]) + 1 if "/" in prefix else 0
    files = [
        _File(str(file["uri"]), str(file["sha256"]), archive.check_name(store.key(str(file["uri"]))[cut:]))
        for file in data.get("files") or ()
    ]

    def one(file: _File) -> str:
        target = into / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            store.download(store.key(file.uri), target)
        except NotFound:
            return f"{file.uri} is missing"
        found = archive.sha256(target)
        target.chmod(0o444)
        if found != file.sha256:
            return f"{file.uri} has changed (SHA-256 {file.sha256[:12]}... recorded, {found[:12]}... now)"
        return ""

    with ThreadPoolExecutor(AT_ONCE) as pool:
        problems = [problem for problem in pool.map(one, files) if problem]
    into.mkdir(parents=True, exist_ok=True)
    for at, _, _ in os.walk(into, topdown=False):
        os.chmod(at, 0o555)  # noqa: S103
    return problems


def _own_copy(bundle: Path, into: Path) -> Path:
    """The code as the run's own files, which it may write beside."""
    for name, path in archive.files(bundle).items():
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(path.stat().st_mode | 0o200)
    return into
