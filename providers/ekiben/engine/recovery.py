"""What an engine that was killed has left in the project's own state folder: its lock, and operations that nobody ended.

Ekiben's resources are made by calls that may be repeated and are named by their inputs, so what Pulumi would ask the user to
look up by hand is known here: one whose making began is taken for made, and the next `up` or `destroy` finds out. Resources of
other providers are left to Pulumi's own warning.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pulumi import automation

from ekiben.engine.kinds import FAMILIES, family

__all__ = ["recover"]

OURS = ("ekiben:", "pulumi:providers:ekiben", "pulumi:pulumi:Stack")
# Of AWS's resources those that nothing else takes along when it goes: their ids follow from their names, which the engine knows
# before it asks for them (the section "Import" of each type in Pulumi's registry). Whether they were made, a refresh tells.
NAMED = {
    "aws:cloudwatch/eventBus:EventBus": "{name}",
    "aws:cloudwatch/eventRule:EventRule": "{eventBusName}/{name}",
    "aws:cloudwatch/logGroup:LogGroup": "{name}",
    "aws:cloudwatch/metricAlarm:MetricAlarm": "{name}",
    "aws:ecr/repository:Repository": "{name}",
    "aws:iam/role:Role": "{name}",
    "aws:iam/rolePolicy:RolePolicy": "{role}:{name}",
    "aws:lambda/function:Function": "{name}",
    "aws:s3/bucket:Bucket": "{bucket}",
    "aws:scheduler/scheduleGroup:ScheduleGroup": "{name}",
}
# Written by Pulumi's file backend beside the file that it replaces.
HALF_WRITTEN = re.compile(r".+\.[0-9a-f]+\.tmp")


def recover(root: Path, opened: automation.Stack, say: Callable[[str], None]) -> None:
    """Make the stack ready for the next engine. Silent, and cheap, where the last one ended by itself."""
    folder = root / ".ekiben" / ".pulumi"
    project = opened.workspace.project_settings().name
    locks = list((folder / "locks" / "organization" / project / opened.name).glob("*.json"))
    if locks and not all(_stale(lock) for lock in locks):
        return  # another engine is at work: the next command says so
    if locks:
        say("The last engine was killed: taking its lock away")
        opened.cancel()
    states = folder / "stacks" / project
    if _unended(states / f"{opened.name}.json"):
        _take_up(opened)
    if states.is_dir():
        for path in states.iterdir():
            if path.name.startswith(f"{opened.name}.json") and HALF_WRITTEN.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _unended(state: Path) -> bool:
    try:
        latest = json.loads(state.read_text(encoding="utf-8"))["checkpoint"]["latest"] or {}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return any(_ours(one) or _named(one["resource"]) for one in latest.get("pending_operations") or ())


def _take_up(opened: automation.Stack) -> None:
    deployment = opened.export_stack()
    body = dict(deployment.deployment or {})
    pending = list(body.get("pending_operations") or ())
    resources = list(body.get("resources") or ())
    known = {resource["urn"] for resource in resources}
    for resource in (one["resource"] for one in pending if _ours(one) and one["type"] == "creating"):
        # One that is being replaced is known, and is replaced again.
        token = str(resource["type"])
        ours = family(token) if token.split(":")[1] in FAMILIES else None
        kind = ours.KINDS.get(token.rpartition(":")[2]) if ours else None
        if ours is not None and kind is not None and resource["urn"] not in known:
            inputs = resource["inputs"]
            resources.append({**resource, "id": ours.identity(kind, inputs), "outputs": ours.begun(kind, inputs)})
    looked_at = []
    for resource in (one["resource"] for one in pending if one["type"] == "creating"):
        if (id := _named(resource)) and resource["urn"] not in known:
            resources.append({**resource, "id": id, "outputs": resource["inputs"]})
            looked_at.append(resource["urn"])
    rest = [one for one in pending if not _ours(one) and one["resource"]["urn"] not in looked_at]
    body |= {"pending_operations": rest, "resources": resources}
    opened.import_stack(automation.Deployment(version=deployment.version, deployment=body))
    if looked_at:
        opened.refresh(target=looked_at)


def _named(resource: Mapping[str, Any]) -> str:
    """The id of a resource of AWS that was perhaps made; empty of one whose id its inputs do not tell."""
    try:
        return NAMED.get(str(resource.get("type")), "").format(**resource["inputs"])
    except KeyError:
        return ""


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
