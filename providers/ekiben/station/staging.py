"""A run's files: its inputs copied in and hashed, its results copied out, each whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ekiben.errors import NotFound, ProviderError, SpecError
from ekiben.folder import Folder, system_error
from ekiben.keys import RESERVED, check_key, is_data
from ekiben.lineage import snapshot
from ekiben.packing.fetch import path_of
from ekiben.runtime import Object
from ekiben.station.bundles import bucket_of

__all__ = ["clear_away", "fetch_inputs", "result_uris", "store_results", "write_json"]

TRIES = 5


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all, and durably."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(value, file, ensure_ascii=False, allow_nan=False, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)


def clear_away(tree: Path) -> None:
    """Delete a folder, read-only parts and all; links in it are deleted, not followed. Silent where nothing is."""
    for folder, _, _ in os.walk(tree):
        with contextlib.suppress(OSError):
            os.chmod(folder, 0o700)
    shutil.rmtree(tree, ignore_errors=True)


def fetch_inputs(state_dir: Path, uris: Mapping[str, str], into: Path) -> dict[str, Any]:
    """Copy what lies below each URI prefix to `into`/<name>/, read-only, and return the snapshot of each.

    A run that is tried again reads the same copies. Raises SpecError for an input without files and for a bad URI, NoCapacity
    where the disk is full.
    """
    done = into.with_name("inputs.json")
    if done.exists():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    clear_away(into)
    try:
        found = {name: _fetch(state_dir, name, uri, into / name) for name, uri in sorted(uris.items())}
        for folder, _, _ in os.walk(into, topdown=False):
            os.chmod(folder, 0o555)  # noqa: S103
        write_json(done, found)
    except OSError as error:
        raise system_error("local", "copy the inputs of the run", error) from error
    return found


def _fetch(state_dir: Path, name: str, uri: str, into: Path) -> dict[str, Any]:
    bucket, prefix = bucket_of(state_dir, uri)
    folder = Folder(bucket, "local")
    objects = sorted((one for one in folder.list(prefix) if is_data(one.key)), key=lambda one: one.key)
    if not objects:
        raise SpecError(f"The input {name!r} is empty: nothing in {uri} is complete data.")
    cut = len(prefix.rpartition("/")[0]) + 1 if "/" in prefix else 0
    files = {}
    for object in objects:
        target = into / object.key[cut:]
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_whole(folder, object, bucket / object.key, target)
        files[(bucket / object.key).as_uri()] = target
    return {"uri": uri, **snapshot(files)}


def _copy_whole(folder: Folder, object: Object, source: Path, target: Path) -> None:
    """Copy an object that nobody writes to meanwhile; tried again where somebody did."""
    for _ in range(TRIES):
        before = folder.head(object.key)
        with source.open("rb") as read, target.open("wb") as written:
            shutil.copyfileobj(read, written, 1 << 20)
        if folder.head(object.key).etag == before.etag:
            target.chmod(0o444)
            return
    raise ProviderError(
        "local", f"read the input {object.key!r}", "it is being written to all the time", "Try again later"
    )


def result_uris(storage_uri: str, training: str, run: str) -> dict[str, str]:
    """Where the results of a run are stored: model_uri, output_uri, checkpoint_uri (prefixes), log_uri."""
    at = f"{storage_uri.rstrip('/')}/runs/{training}/{run}"
    return {
        "model_uri": f"{at}/model/", "output_uri": f"{at}/output/",
        "checkpoint_uri": f"{at}/checkpoints/", "log_uri": f"{at}/log.txt",
    }  # fmt: skip


def store_results(
    run_dir: Path, storage_uri: str, training: str, run: str, *, model: bool, note: Callable[[str], None]
) -> None:
    """Copy model (when `model`), output, checkpoints and log to storage, in one rename; repeating is safe.

    `note` is told of each file that is left out. Raises NotFound when the storage is gone, NoCapacity when its disk is full.
    """
    bucket = path_of(storage_uri)
    if not bucket.is_dir():
        raise NotFound(
            "local", f"store the results of the run {run!r}", f"there is no {storage_uri}", "Mend it with `ekiben up`"
        )
    staging = bucket / RESERVED / "staging"
    # Named after the run, so that repeating it takes away what a crash has left.
    fresh, old = staging / f"{run}.new", staging / f"{run}.old"
    target = bucket / "runs" / training / run
    clear_away(fresh)
    clear_away(old)
    try:
        fresh.mkdir(parents=True)
        for part in ("output", "checkpoints", *(("model",) if model else ())):
            _copy_tree(run_dir / part, fresh / part, note)
        _copy_file(run_dir / "log.txt", fresh / "log.txt")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    except OSError as error:
        raise system_error("local", f"store the results of the run {run!r}", error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _copy_tree(source: Path, target: Path, note: Callable[[str], None]) -> None:
    for folder, _, names in os.walk(source):
        for name in sorted(names):
            path = Path(folder, name)
            key = path.relative_to(source).as_posix()
            try:
                check_key(key)
            except SpecError as problem:
                note(f"not stored: {problem}")
                continue
            if path.is_symlink() or not path.is_file():
                note(f"not stored: {key!r} is no regular file.")
                continue
            _copy_file(path, target / key)


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as read, target.open("wb") as written:
        shutil.copyfileobj(read, written, 1 << 20)
        written.flush()
        os.fsync(written.fileno())
