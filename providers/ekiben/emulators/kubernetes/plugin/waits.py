"""Waiting until an object is ready, or gone; and why it is not, by its pods and the events about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pulumi.runtime.rpc import UNKNOWN

from ekiben.emulators.kubernetes.plugin import objects
from ekiben.emulators.kubernetes.plugin.paths import text
from ekiben.emulators.kubernetes.plugin.readiness import WAIT_FOR, Look, Lost, rule_of
from ekiben.emulators.kubernetes.plugin.server import Kind, Server
from ekiben.errors import ProviderError, SpecError
from ekiben.kubernetes.errors import trouble_of

__all__ = ["Unready", "gone", "look", "problems", "ready", "timeout_of"]

# As Pulumi's own plugin has them; the program changes them by customTimeouts or the annotation.
READY_TIMEOUT_S, GONE_TIMEOUT_S = 600.0, 300.0
TIMEOUT = "pulumi.com/timeoutSeconds"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
TOLD_PODS = 3


class Unready(ProviderError):
    """It is there, and not ready. `live` is how it was seen last."""

    def __init__(self, operation: str, why: str, remedy: str, live: Mapping[str, Any]) -> None:
        super().__init__("kubernetes", operation, why, remedy)
        self.live = live


def problems(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with the annotations that say for what it is waited, and how long: (property, why)."""
    for name, read in ((WAIT_FOR, rule_of), (TIMEOUT, lambda thing: timeout_of(thing, 0.0, 0.0))):
        try:
            if objects.annotation(inputs, name) != UNKNOWN:
                read(inputs)
        except SpecError as error:
            yield text(("metadata", "annotations", name)), str(error)


def timeout_of(inputs: Mapping[str, Any], asked_s: float, default_s: float) -> float:
    """How long to wait: the engine's customTimeouts, else the annotation, else the default. Raises SpecError."""
    said = objects.annotation(inputs, TIMEOUT)
    try:
        return asked_s or float(said or default_s)
    except ValueError as error:
        raise SpecError(f"kubernetes: cannot wait {said!r} seconds. Write a number into {TIMEOUT}.") from error


def ready(
    server: Server, kind: Kind, live: dict[str, Any], *,
    operation: str, timeout_s: float, stopped: threading.Event, tell: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """The object once it is ready. Raises Unready, with why, when it will not be, is not in time, or somebody asked to stop.

    `tell` is called with why it is not ready yet, each time that changes.
    """
    rule = rule_of(live)
    if rule is None:
        return live
    asking, said = look(server), ""
    for left in _turns(timeout_s, stopped):
        metadata = live["metadata"]
        found = server.get(kind, str(metadata.get("namespace", "")), str(metadata["name"]))
        if found is None or found["metadata"].get("uid") != metadata.get("uid"):
            raise Unready(operation, "somebody has deleted it while it was waited for", "Repeat it", live)
        live = found
        try:
            why = rule(live, asking)
        except Lost as lost:
            raise _unready(server, live, operation, str(lost)) from None
        if not why:
            return live
        if stopped.is_set():
            raise Unready(operation, f"it was asked to stop while it waited: {why}", "", live)
        if not left:
            raise _unready(server, live, operation, f"it is not ready after {timeout_s:g} s: {why}")
        if why != said:
            tell(why)
            said = why
    raise AssertionError("the last turn returns or raises")


def gone(
    server: Server,
    kind: Kind,
    namespace: str,
    name: str,
    uid: str,
    *,
    operation: str,
    timeout_s: float,
    stopped: threading.Event,
) -> None:
    """Return when the object of this uid is gone. Raises Unready with what holds it back."""
    for left in _turns(timeout_s, stopped):
        live = server.get(kind, namespace, name)
        if live is None or live["metadata"].get("uid") != uid:
            return
        if stopped.is_set() or not left:
            held = live["metadata"].get("finalizers") or (live.get("spec") or {}).get("finalizers") or ()
            blocked = [str(one.get("message", "")) for one in (live.get("status") or {}).get("conditions") or ()
                       if str(one.get("type", "")).startswith("Namespace") and one.get("status") == "True"]  # fmt: skip
            why = f"it waits for its finalizers {', '.join(map(str, held))}" if held else "it does not go"
            why = "; ".join([why, *blocked])
            after = "it was asked to stop" if stopped.is_set() else f"it is still there after {timeout_s:g} s"
            raise Unready(operation, f"{after}: {why}", "Look whether the controllers that remove them run", live)


def _turns(timeout_s: float, stopped: threading.Event) -> Iterator[bool]:
    """A turn for each look, with growing pauses; False is the last. Who wants to stop has one more look at once."""
    deadline, pause_s = time.monotonic() + timeout_s, FIRST_PAUSE_S
    while (left := deadline - time.monotonic()) > 0:
        yield True
        stopped.wait(min(pause_s, max(left, 0.0)))
        pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)
    yield False


def look(server: Server) -> Look:
    """What a rule asks the server for."""

    def found(api: str, name: str, namespace: str, labels: str) -> list[dict[str, Any]]:
        kind = server.kind(api, name)
        return list(server.list(kind, namespace, labels=labels)) if kind else []

    return found


def _unready(server: Server, live: Mapping[str, Any], operation: str, why: str) -> Unready:
    try:
        reasons, remedy = _explained(server, live)
    except ProviderError:  # what went wrong is told, even where nobody may look at pods and events
        reasons, remedy = [], ""
    return Unready(operation, ". ".join([why, *reasons]), remedy, live)


def _explained(server: Server, live: Mapping[str, Any]) -> tuple[list[str], str]:
    """What its pods and the warnings about it say, and what to do."""
    events = server.kind("v1", "Event")
    pods = _pods(server, live)
    namespace = str(live["metadata"].get("namespace", ""))

    def about(thing: Mapping[str, Any]) -> list[dict[str, Any]]:
        uid = str(thing["metadata"].get("uid", ""))
        return (
            list(server.list(events, namespace, fields=f"involvedObject.uid={uid},type=Warning"))
            if events and uid
            else []
        )

    reasons, remedy = [], ""
    for pod in pods[:TOLD_PODS]:
        if trouble := trouble_of(pod, about(pod)):
            reasons.append(f"The pod {pod['metadata']['name']}: {trouble.why}")
            remedy = remedy or trouble.remedy
    owned = [thing for thing in _below(server, live) if not pods]
    for thing in (live, *owned):
        for event in sorted(about(thing), key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))[
            -2:
        ]:
            reasons.append(
                f"{event.get('reason', 'Warning')}: {' '.join(str(event.get('message', '')).split()).rstrip('.')}"
            )
    return list(dict.fromkeys(reasons)), remedy


def _pods(server: Server, live: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pods of a workload, or those that a service selects, which are not ready."""
    if live.get("kind") == "Pod":
        return [dict(live)]
    selector = (live.get("spec") or {}).get("selector") or {}
    labels = selector.get("matchLabels", selector) if isinstance(selector, Mapping) else {}
    if str(live.get("apiVersion", "")).startswith("serving.knative.dev/"):
        labels = {f"serving.knative.dev/{str(live['kind']).lower()}": live["metadata"]["name"]}
    kind = server.kind("v1", "Pod")
    if not kind or not labels or not all(isinstance(value, str) for value in labels.values()):
        return []
    asked = ",".join(f"{key}={value}" for key, value in labels.items())
    found = server.list(kind, str(live["metadata"].get("namespace", "")), labels=asked)
    return [pod for pod in found if not _is_ready(pod)]


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _below(server: Server, live: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The ReplicaSets of a Deployment: what says that no pod can be made."""
    kind = server.kind("apps/v1", "ReplicaSet") if live.get("kind") == "Deployment" else None
    uid = live["metadata"].get("uid")
    found = server.list(kind, str(live["metadata"]["namespace"])) if kind else ()
    return [one for one in found if uid in [owner.get("uid") for owner in one["metadata"].get("ownerReferences") or ()]]
