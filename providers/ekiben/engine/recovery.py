"""What an engine that was killed has left in the project's own state folder: its lock, and operations that nobody ended.

Ekiben's resources are made by calls that may be repeated and are named by their inputs, so what Pulumi would ask the user to
look up by hand is known here: one whose making began is taken for made, and the next `up` or `destroy` finds out. Of a cloud's
resources the provider's package knows what they would be, and a refresh tells whether they are there. Resources of types that
nobody knows are left to Pulumi's own warning.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from pulumi import automation

from ekiben.engine.kinds import FAMILIES, family

__all__ = ["recover", "unlock"]

OURS = ("ekiben:", "pulumi:providers:", "pulumi:pulumi:Stack")
# The plugin of a type's token -> the module that knows its resources, loaded when one is asked for.
BEGUN = {"aws": "ekiben.aws.begun", "kubernetes": "ekiben.kubernetes.begun"}
# Written by Pulumi's file backend beside the file that it replaces.
HALF_WRITTEN = re.compile(r".+\.[0-9a-f]+\.tmp")


class Begun(Protocol):
    """The module that knows the resources of another's plugin."""

    def identity(
        self, type: str, inputs: Mapping[str, Any], settings: Mapping[str, Any], known: Collection[str]
    ) -> str | None:
        """The id of a resource that was perhaps made; empty where there is none to look for, None of a type that it does not know.

        settings: the inputs of the resource's provider; known: the ids of that type that the state has.
        """


def unlock(root: Path, project: str, stack: str, say: Callable[[str], None]) -> bool:
    """Take away what keeps the next engine from its state; False where another is at work. Silent, and cheap, where nothing is."""
    folder = root / ".ekiben" / ".pulumi"
    held, states = folder / "locks" / "organization" / project / stack, folder / "stacks" / project
    locks = list(held.glob("*.json"))
    if not all(_stale(lock) for lock in locks):
        return False  # the next command says so
    if locks:
        say("The last engine was killed: taking its lock away")
    for lock in locks:
        lock.unlink(missing_ok=True)
    for told in (*folder.glob("*.attrs"), *held.glob("*.attrs"), *states.glob("*.attrs")):
        if not _whole(told):
            told.unlink(missing_ok=True)
    if states.is_dir():
        for path in states.iterdir():
            if path.name.startswith(f"{stack}.json") and HALF_WRITTEN.fullmatch(path.name):
                path.unlink(missing_ok=True)
    return True


def recover(root: Path, opened: automation.Stack, say: Callable[[str], None]) -> None:
    """Take up what the last engine has not ended. Cheap where it ended by itself."""
    project = opened.workspace.project_settings().name
    if _unended(root / ".ekiben" / ".pulumi" / "stacks" / project / f"{opened.name}.json"):
        _take_up(opened, say)


def _whole(told: Path) -> bool:
    """Is it what Pulumi's file backend writes beside each file, of which it takes no other for an answer? It does so in place."""
    try:
        json.loads(told.read_text(encoding="utf-8"))
    except ValueError:
        return False
    except OSError:
        return True
    return True


def _unended(state: Path) -> bool:
    try:
        latest = json.loads(state.read_text(encoding="utf-8"))["checkpoint"]["latest"] or {}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return any(_ours(one) or _begun(one) for one in latest.get("pending_operations") or ())


def _take_up(opened: automation.Stack, say: Callable[[str], None]) -> None:
    """Operations are forgotten only after all that they may have left was looked at: this may be killed, too."""
    deployment = opened.export_stack()
    body = dict(deployment.deployment or {})
    pending = list(body.get("pending_operations") or ())
    resources = list(body.get("resources") or ())
    ended, looked_at = [], set()
    for one in pending:  # in their order: what depends on another comes after it
        begun = _begun(one)
        found = _found(begun, one, resources) if begun else _made(one, resources)
        if found is not None:
            resources += found
            ended.append(one)
            looked_at |= {one["resource"]["urn"]} if begun else set()
    looked_at &= {resource["urn"] for resource in resources if not resource.get("delete")}
    rest = [one for one in pending if one not in ended]
    if looked_at:
        say(f"Looking at what it was at: {len(looked_at)} resources")
        fresh = {**body, "resources": resources}
        opened.import_stack(automation.Deployment(version=deployment.version, deployment=fresh))
        opened.refresh(target=sorted(looked_at))
        deployment = opened.export_stack()
        body, resources = dict(deployment.deployment or {}), list((deployment.deployment or {}).get("resources") or ())
    body |= {"pending_operations": rest, "resources": resources}
    opened.import_stack(automation.Deployment(version=deployment.version, deployment=body))


def _begun(operation: Mapping[str, Any]) -> Begun | None:
    """What knows the resources of the plugin that the operation is of."""
    module = BEGUN.get(str(operation.get("resource", {}).get("type", "")).partition(":")[0])
    return cast("Begun", importlib.import_module(module)) if module else None


def _made(operation: Mapping[str, Any], resources: Sequence[Mapping[str, Any]]) -> list[Any] | None:
    """A resource of Ekiben's whose making was begun, as if it had ended; None where the operation is another's.

    One that is being replaced is known, and is replaced again.
    """
    if not _ours(operation):
        return None
    resource = operation["resource"]
    token, inputs = str(resource["type"]), resource.get("inputs") or {}
    ours = family(token) if token.split(":")[1] in FAMILIES else None
    kind = ours.KINDS.get(token.rpartition(":")[2]) if ours else None
    if ours is None or kind is None or operation["type"] != "creating":
        return []
    if any(one["urn"] == resource["urn"] for one in resources):
        return []
    return [{**resource, "id": ours.identity(kind, inputs), "outputs": ours.begun(kind, inputs)}]


def _found(begun: Begun, operation: Mapping[str, Any], resources: Sequence[Mapping[str, Any]]) -> list[Any] | None:
    """What the operation has perhaps made and the state does not have; None where nobody knows.

    What was to take the place of another is to be deleted: that one is replaced again.
    """
    resource = operation["resource"]
    if operation["type"] != "creating":
        return []
    type, inputs = str(resource["type"]), resource.get("inputs") or {}
    provider = str(resource.get("provider", "")).rpartition("::")[0]
    settings = next((one.get("inputs") or {} for one in resources if one["urn"] == provider), {})
    known = [str(one.get("id")) for one in resources if one["type"] == type]
    try:
        id = begun.identity(type, inputs, settings, known)
    except KeyError:  # it was given up before it had a name
        return None
    if not id:
        return None if id is None else []
    if id in known:
        return []
    replaces = {"delete": True} if any(one["urn"] == resource["urn"] for one in resources) else {}
    return [{**resource, "id": id, "outputs": inputs, **replaces}]


def _ours(operation: Mapping[str, Any]) -> bool:
    return str(operation.get("resource", {}).get("type", "")).startswith(OURS)


def _stale(lock: Path) -> bool:
    """Did the engine end that wrote this lock, on this machine?"""
    try:
        held = json.loads(lock.read_text(encoding="utf-8"))
        if held["hostname"] != socket.gethostname():
            return False
        pid = int(held["pid"])
        os.kill(pid, 0)
    except (ProcessLookupError, FileNotFoundError):
        return True
    except (OSError, ValueError, KeyError):
        return False
    # Another program may have got the number since, or nobody has yet asked how the engine ended.
    name, state = _program(pid)
    return state in ("Z", "X") or name not in ("pulumi", "")


def _program(pid: int) -> tuple[str, str]:
    """The name of a process's program and its state, as /proc has them; empty where there is no such thing."""
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").partition("(")[2].rpartition(")")
    except OSError:
        return "", ""
    return name, rest.split()[0]
