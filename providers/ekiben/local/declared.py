"""What the plugin's operations do to a station: check, compare, put, read, delete. Plain values in and out, no Pulumi."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from ekiben.engine import kinds
from ekiben.engine.kinds import Json, Kind
from ekiben.errors import NotFound, SpecError, Unavailable
from ekiben.station import launch
from ekiben.station.client import Client
from ekiben.station.parents import scratch
from ekiben.station.processes import STATION, kill_marked

__all__ = ["KINDS", "begun", "changes", "delete", "identity", "lost", "problems", "put", "read"]

PUT_S = 900.0
STATION_KEYS = ("state_dir", "name", "tags", "station")


def _kind(name: str, inputs: Mapping[str, type], *, fixed: Sequence[str] = (), quiet: Sequence[str] = ()) -> Kind:
    shared: dict[str, type] = {"state_dir": str, "name": str, "tags": dict}
    return Kind(
        name=name, inputs={**shared, **inputs}, fixed=frozenset({"state_dir", "name", *fixed}), quiet=frozenset(quiet),
        outputs={"facts": dict}, optional=frozenset({"retain"}),
    )  # fmt: skip


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            name="Host",
            inputs={"state_dir": str, "project": str, "stack": str},
            fixed=frozenset({"state_dir", "project", "stack"}),
            outputs={"url": str, "running": bool},
        ),
        _kind("Bucket", {"retain": bool}),
        _kind(
            "Object",
            {"bucket": str, "key": str, "source_path": str, "sha256": str},
            fixed=("bucket", "key"),
            quiet=("source_path",),
        ),
        _kind(
            "Training",
            {"spec": Json, "storage_uri": str, "code_uri": str, "code_sha256": str, "code": Json, "input_uris": dict},
        ),
        _kind("Endpoint", {"spec": Json, "storage_uri": str, "station": str}),
        _kind(
            "Function",
            {
                "spec": Json,
                "code_uri": str,
                "code_sha256": str,
                "platform": str,
                "bucket_uris": dict,
                "uses": list,
                "station": str,
            },
        ),
        _kind("Record", {"platform": str}),
    )
}


def problems(kind: Kind, inputs: Mapping[str, Any], unknown: object) -> list[tuple[str, str]]:
    """What is wrong with the inputs: property and reason. A value that is not known yet (`unknown`) is right."""
    found = kinds.problems(kind, inputs, unknown)
    state_dir = inputs.get("state_dir")
    if isinstance(state_dir, str) and state_dir and state_dir != unknown and not os.path.isabs(state_dir):
        found.append(("state_dir", f"{state_dir!r} is not an absolute path"))
    return found


def changes(kind: Kind, old: Mapping[str, Any], new: Mapping[str, Any], ignored: Sequence[str] = ()) -> list[str]:
    """The inputs that differ. The commit of unchanged code is no difference, unless it was not committed at all before."""
    found = kinds.changes(kind, old, new, ignored)
    same_code = "code" in found and "code_sha256" not in found and not json.loads(old.get("code") or "{}").get("dirty")
    return [key for key in found if not (key == "code" and same_code)]


def identity(kind: Kind, inputs: Mapping[str, Any]) -> str:
    return str(inputs["state_dir"]) if kind.name == "Host" else f"{kind.path}/{inputs['name']}"


def begun(kind: Kind, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The state of one whose making was begun, and nobody saw it end: what is `lost` is mended, and it can be deleted."""
    return {**inputs, "url": "", "running": False} if kind.name == "Host" else {**inputs, "facts": {}}


def lost(kind: Kind, state: Mapping[str, Any]) -> str:
    """The output that is true no more, because somebody deleted the thing by hand, or its station is gone; else empty."""
    if kind.name == "Host":
        return "" if _address(Path(state["state_dir"])) == state.get("url") else "running"
    found = _found(kind, state)
    return "" if found is not None and found["facts"] == state.get("facts") else "facts"


def put(
    kind: Kind, urn: str, inputs: Mapping[str, Any], timeout_s: float = 0.0, stopped: threading.Event | None = None
) -> dict[str, Any]:
    """Make it so, in a station that is started when it does not run; returns the state. Repeating is safe."""
    if kind.name == "Host":
        return {**inputs, "url": _client(inputs, urn).url, "running": True}
    body = {"spec": _spec(kind, inputs), "tags": dict(inputs["tags"])}
    made = _request("PUT", kind, urn, inputs, body, timeout_s)
    return {**inputs, "facts": made["facts"]}


def read(kind: Kind, state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(inputs, state) as they are now, None when it is gone. Starts nothing: a station that does not run is read from disk."""
    if not state.get("state_dir"):
        raise SpecError(f"A {kind.name} cannot be imported: it is made by `up`, which also takes over what is there.")
    inputs = {key: state[key] for key in kind.inputs if key in state}
    state_dir = Path(state["state_dir"])
    if kind.name == "Host":
        if not (state_dir / "station.db").exists():
            return None
        url = _address(state_dir)
        return inputs, {**inputs, "url": url or state.get("url", ""), "running": url is not None}
    found = _found(kind, state)
    if found is None:
        return None
    spec = found["spec"]
    for key in kind.inputs:
        if key in STATION_KEYS or key not in spec:
            continue
        same = key in inputs and _spec_value(kind, key, inputs[key]) == spec[key]
        if not same:
            inputs[key] = _text(spec[key]) if kind.inputs[key] is Json else spec[key]
    inputs["tags"] = found["tags"]
    return inputs, {**inputs, "facts": found["facts"]}


def delete(kind: Kind, urn: str, state: Mapping[str, Any], timeout_s: float = 0.0) -> None:
    """Undo it; silent where nothing is. The station goes with all it has, except buckets that are to be retained."""
    state_dir = Path(state["state_dir"])
    if kind.name == "Host":
        _delete_station(state_dir)
    elif (state_dir / "station.db").exists():
        _request("DELETE", kind, urn, state, None, timeout_s)


def _address(state_dir: Path) -> str | None:
    """Where the station answers; None when it does not run."""
    try:
        return Client(state_dir).url if launch.running(state_dir) else None
    except Unavailable:
        return None


def _request(method: str, kind: Kind, urn: str, state: Mapping[str, Any], body: Any, timeout_s: float) -> Any:
    """Ask the station; when it dies meanwhile, ask the next one."""
    for again in (True, False):
        client = _client(state, urn)
        try:
            return client.request(method, _path(kind, state), body, timeout_s=timeout_s or PUT_S)
        except Unavailable as error:
            broken = isinstance(error.__cause__, OSError | HTTPException) and not isinstance(
                error.__cause__, TimeoutError
            )
            if not again or not (broken or _address(client.state_dir) is None):
                raise
    raise AssertionError("the loop returns or raises")


def _client(state: Mapping[str, Any], urn: str) -> Client:
    """The station's, started when it does not run: one that died in the middle of an `up` does not fail it."""
    stack, project = _urn(urn)
    return launch.ensure(Path(state["state_dir"]), project=project, stack=stack)


def _delete_station(state_dir: Path) -> None:
    launch.stop(state_dir)
    # One that was killed could not take these with it.
    kill_marked(STATION, str(state_dir.resolve()))
    scratch(state_dir.resolve()).rmdir()
    if not state_dir.is_dir():
        return
    if not (state_dir / "station.db").exists() and any(path.name != "buckets" for path in state_dir.iterdir()):
        raise NotFound(
            "local", f"delete the station of {state_dir}", "the folder has no station.db, so it may be something else",
            "Delete it by hand if it is not needed",
        )  # fmt: skip
    # The database goes last: until then the folder is known as a station's, and deleting can be tried again.
    for path in sorted(state_dir.iterdir(), key=lambda path: path.name == "station.db"):
        if path.name == "buckets":
            for hidden in path.glob(".*"):
                _remove(hidden)
            if any(path.iterdir()):
                continue
        _remove(path)
    if not any(state_dir.iterdir()):
        state_dir.rmdir()


def _remove(path: Path) -> None:
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o700)  # noqa: S103 - unpacked bentos are read-only, folders too
    shutil.rmtree(path)


def _found(kind: Kind, state: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entry in the station's table when what it stands for is there, too; None otherwise."""
    state_dir = Path(state["state_dir"])
    if launch.running(state_dir):
        try:
            found: dict[str, Any] = Client(state_dir).request("GET", _path(kind, state))
        except NotFound:
            return None
        return found
    database = state_dir / "station.db"
    if not database.exists():
        return None
    with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as connection:
        sql = "select spec, tags, facts from resources where kind = ? and name = ?"
        row = connection.execute(sql, (kind.path, state["name"])).fetchone()
    if row is None:
        return None
    entry = dict(zip(("spec", "tags", "facts"), map(json.loads, row), strict=True))
    place = entry["facts"].get("path") or unquote(urlsplit(entry["facts"].get("uri", "")).path)
    return None if place and not Path(place).exists() else entry


def _path(kind: Kind, state: Mapping[str, Any]) -> str:
    return f"/v1/resources/{kind.path}/{quote(str(state['name']), safe='')}"


def _spec(kind: Kind, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs as the station's table has them."""
    return {
        key: _spec_value(kind, key, inputs[key]) for key in kind.inputs if key in inputs and key not in STATION_KEYS
    }


def _spec_value(kind: Kind, key: str, value: Any) -> Any:
    return json.loads(value) if kind.inputs[key] is Json else value


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False)


def _urn(urn: str) -> tuple[str, str]:
    """(stack, project) of urn:pulumi:<stack>::<project>::<type>::<name>."""
    stack, project = urn.removeprefix("urn:pulumi:").split("::")[:2]
    return stack, project
