"""When an object is ready: one rule for each kind that takes its time. The rules are those of Pulumi's own plugin.

A rule says why an object is not ready yet, or nothing; it raises Lost when it will never be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ekiben.emulators.kubernetes.plugin import objects
from ekiben.errors import SpecError

__all__ = ["WAIT_FOR", "Look", "Lost", "Rule", "rule_of"]

SKIP, WAIT_FOR = "pulumi.com/skipAwait", "pulumi.com/waitFor"
# (api, kind, namespace, labels) -> the objects that are there.
Look = Callable[[str, str, str, str], list[dict[str, Any]]]
Rule = Callable[[Mapping[str, Any], Look], str]


class Lost(Exception):
    """It will not become ready any more, and why."""


def rule_of(thing: Mapping[str, Any]) -> Rule | None:
    """The rule for an object: what its annotations say, else that of its kind; None for what is ready when it is there.

    Raises SpecError for an annotation that says nothing.
    """
    if objects.flag(thing, SKIP):
        return None
    if said := objects.annotation(thing, WAIT_FOR):
        return _all(said)
    group = str(thing.get("apiVersion", "")).rpartition("/")[0]
    return RULES.get(f"{group}/{thing.get('kind')}" if group else str(thing.get("kind")))


def _seen(thing: Mapping[str, Any]) -> bool:
    status = thing.get("status") or {}
    return int(status.get("observedGeneration", 0)) >= int(thing["metadata"].get("generation", 0))


def _condition(thing: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    for one in (thing.get("status") or {}).get("conditions") or ():
        if one.get("type") == type_:
            return dict(one)
    return {}


def _why(condition: Mapping[str, Any], otherwise: str) -> str:
    reason, message = condition.get("reason", ""), condition.get("message", "")
    return f"{reason}: {message}" if reason and message else str(message or reason or otherwise)


def _deployment(thing: Mapping[str, Any], look: Look) -> str:
    status, wanted = thing.get("status") or {}, int((thing.get("spec") or {}).get("replicas", 1))
    if not _seen(thing):
        return "its controller has not seen it yet"
    progressing = _condition(thing, "Progressing")
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        raise Lost(_why(progressing, "it makes no progress"))
    updated, available = int(status.get("updatedReplicas", 0)), int(status.get("availableReplicas", 0))
    if updated < wanted:
        return f"{updated} of {wanted} replicas are as asked"
    if int(status.get("replicas", 0)) > updated:
        return f"{int(status['replicas']) - updated} old replicas are still there"
    return f"{available} of {wanted} replicas are available" if available < updated else ""


def _stateful_set(thing: Mapping[str, Any], look: Look) -> str:
    spec, status = thing.get("spec") or {}, thing.get("status") or {}
    wanted = int(spec.get("replicas", 1))
    if not _seen(thing):
        return "its controller has not seen it yet"
    ready = int(status.get("readyReplicas", 0))
    if ready < wanted or int(status.get("replicas", 0)) != wanted:
        return f"{ready} of {wanted} replicas are ready"
    strategy = spec.get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return ""
    renewed = wanted - int((strategy.get("rollingUpdate") or {}).get("partition", 0))
    updated = int(status.get("updatedReplicas", 0))
    done = status.get("updateRevision") == status.get("currentRevision")
    return f"{updated} of {renewed} replicas are as asked" if not done and updated < renewed else ""


def _daemon_set(thing: Mapping[str, Any], look: Look) -> str:
    spec, status = thing.get("spec") or {}, thing.get("status") or {}
    if not _seen(thing):
        return "its controller has not seen it yet"
    wanted = int(status.get("desiredNumberScheduled", 0))
    updated, available = int(status.get("updatedNumberScheduled", 0)), int(status.get("numberAvailable", 0))
    if (spec.get("updateStrategy") or {}).get("type") != "OnDelete" and updated < wanted:
        return f"{updated} of {wanted} pods are as asked"
    return f"{available} of {wanted} pods are available" if available < wanted else ""


def _replication(thing: Mapping[str, Any], look: Look) -> str:
    wanted = int((thing.get("spec") or {}).get("replicas", 1))
    ready = int((thing.get("status") or {}).get("readyReplicas", 0))
    return "" if _seen(thing) and ready >= wanted else f"{ready} of {wanted} replicas are ready"


def _job(thing: Mapping[str, Any], look: Look) -> str:
    if (failed := _condition(thing, "Failed")).get("status") == "True":
        raise Lost(f"it has failed ({_why(failed, 'without a reason')})")
    if (thing.get("spec") or {}).get("suspend") or _condition(thing, "Complete").get("status") == "True":
        return ""
    status = thing.get("status") or {}
    return f"it is not complete: {status.get('succeeded', 0)} pods have succeeded, {status.get('active', 0)} run"


def _pod(thing: Mapping[str, Any], look: Look) -> str:
    status = thing.get("status") or {}
    if status.get("phase") == "Failed":
        raise Lost(f"it has failed ({_why(status, 'without a reason')})")
    if status.get("phase") == "Succeeded" or _condition(thing, "Ready").get("status") == "True":
        return ""
    return f"it is {status.get('phase', 'Pending')}"


def _service(thing: Mapping[str, Any], look: Look) -> str:
    spec, status = thing.get("spec") or {}, thing.get("status") or {}
    if spec.get("type") == "ExternalName":
        return ""
    if spec.get("type") == "LoadBalancer" and not (status.get("loadBalancer") or {}).get("ingress"):
        return "it has no address from a load balancer"
    if spec.get("selector") and not _has_endpoints(
        str(thing["metadata"]["namespace"]), str(thing["metadata"]["name"]), look
    ):
        return "it has no endpoints: none of the pods that it selects is ready"
    return ""


def _has_endpoints(namespace: str, service: str, look: Look) -> bool:
    slices = look("discovery.k8s.io/v1", "EndpointSlice", namespace, f"kubernetes.io/service-name={service}")
    return any(
        (endpoint.get("conditions") or {}).get("ready", True)
        for one in slices
        for endpoint in one.get("endpoints") or ()
    )


def _ingress(thing: Mapping[str, Any], look: Look) -> str:
    spec, namespace = thing.get("spec") or {}, str(thing["metadata"]["namespace"])
    backends = [
        path.get("backend") for rule in spec.get("rules") or () for path in (rule.get("http") or {}).get("paths") or ()
    ]
    names = {
        str(((one or {}).get("service") or {}).get("name", "")) for one in [*backends, spec.get("defaultBackend")]
    } - {""}
    outside = {
        one["metadata"]["name"]
        for one in (look("v1", "Service", namespace, "") if names else ())
        if (one.get("spec") or {}).get("type") == "ExternalName"
    }
    if missing := [name for name in sorted(names - outside) if not _has_endpoints(namespace, name, look)]:
        return f"the service {missing[0]} behind it has no endpoints"
    ready = (thing.get("status") or {}).get("loadBalancer", {}).get("ingress")
    return "" if ready else "it has no address: no ingress controller has taken it up"


def _claim(thing: Mapping[str, Any], look: Look) -> str:
    phase = (thing.get("status") or {}).get("phase", "Pending")
    if phase == "Lost":
        raise Lost("its volume is lost")
    wanted = (thing.get("spec") or {}).get("storageClassName")
    classes = look("storage.k8s.io/v1", "StorageClass", "", "") if phase == "Pending" and wanted else []
    waits = any(
        one["metadata"]["name"] == wanted and one.get("volumeBindingMode") == "WaitForFirstConsumer" for one in classes
    )
    return "" if phase == "Bound" or waits else f"it is {phase}: no volume is bound to it"


def _volume(thing: Mapping[str, Any], look: Look) -> str:
    status = thing.get("status") or {}
    if status.get("phase") == "Failed":
        raise Lost(_why(status, "it has failed"))
    return "" if status.get("phase") in ("Available", "Bound") else f"it is {status.get('phase', 'Pending')}"


def _definition(thing: Mapping[str, Any], look: Look) -> str:
    names = _condition(thing, "NamesAccepted")
    if names.get("status") == "False":
        raise Lost(_why(names, "its names are taken"))
    return "" if _condition(thing, "Established").get("status") == "True" else "it is not established"


def _condition_is_true(type_: str) -> Rule:
    def rule(thing: Mapping[str, Any], look: Look) -> str:
        if "observedGeneration" in (thing.get("status") or {}) and not _seen(thing):
            return "its controller has not seen it yet"
        condition = _condition(thing, type_)
        return (
            ""
            if condition.get("status") == "True"
            else f"it is not {type_} ({_why(condition, 'nothing is said of it')})"
        )

    return rule


def _namespace(thing: Mapping[str, Any], look: Look) -> str:
    return "" if (thing.get("status") or {}).get("phase") == "Active" else "it is not active"


RULES: Mapping[str, Rule] = {
    "Namespace": _namespace, "PersistentVolume": _volume, "PersistentVolumeClaim": _claim, "Pod": _pod,
    "ReplicationController": _replication, "Service": _service, "apps/DaemonSet": _daemon_set, "apps/Deployment": _deployment,
    "apps/ReplicaSet": _replication, "apps/StatefulSet": _stateful_set, "batch/Job": _job, "networking.k8s.io/Ingress": _ingress,
    "apiextensions.k8s.io/CustomResourceDefinition": _definition,
    "apiregistration.k8s.io/APIService": _condition_is_true("Available"),
    **dict.fromkeys(
        (f"serving.knative.dev/{kind}" for kind in ("Service", "Route", "Configuration", "Revision", "DomainMapping")),
        _condition_is_true("Ready"),
    ),
}  # fmt: skip


def _all(said: str) -> Rule:
    """The rule of `pulumi.com/waitFor`: `condition=Ready`, `jsonpath={.status.phase}=Running`, or a JSON list of such."""
    try:
        wanted = json.loads(said) if said.lstrip().startswith("[") else [said]
        rules = [_one(str(one)) for one in wanted]
    except ValueError as error:
        raise SpecError(
            f"kubernetes: cannot wait for {said!r}: {error}. Write condition=TYPE[=STATUS], jsonpath={{.PATH}}[=VALUE], or a JSON "
            f"list of such into {WAIT_FOR}."
        ) from error

    def rule(thing: Mapping[str, Any], look: Look) -> str:
        return next(filter(None, (one(thing, look) for one in rules)), "")

    return rule


def _one(said: str) -> Rule:
    how, _, rest = said.partition("=")
    if how == "condition" and rest:
        type_, _, status = rest.partition("=")
        return lambda thing, look: (
            ""
            if _condition(thing, type_).get("status") == (status or "True")
            else f"its condition {type_} is not {status or 'True'}"
        )
    found = re.fullmatch(r"\{(.+?)\}(?:=(.*))?", rest) if how == "jsonpath" else None
    if not found:
        raise ValueError(f"{said!r} is neither")
    path, value = list(_steps(found[1])), found[2]

    def rule(thing: Mapping[str, Any], look: Look) -> str:
        there = list(_found(thing, path))
        done = value in map(_plain, there) if value is not None else any(one not in (None, "", [], {}) for one in there)
        return "" if done else f"{found[1]} is not " + (f"{value!r}" if value is not None else "there")

    return rule


STEP = re.compile(r"\.?([\w-]+)|\[(\d+|\*)\]|\['([^']+)'\]|\[\?\(@\.([\w.-]+)==[\"']([^\"']*)[\"']\)\]|\.(\*)")


def _steps(path: str) -> Iterator[tuple[str, str]]:
    """A JSONPath of kubectl's: names, indexes, all items, and items by one of their values."""
    rest = path.removeprefix("$")
    while rest:
        step = STEP.match(rest)
        if not step:
            raise ValueError(f"{path!r} is no JSONPath that is understood")
        name, index, quoted, key, value, star = step.groups()
        yield (key, value) if key else ("", name or quoted or index or star)
        rest = rest[step.end() :]


def _found(thing: Any, path: list[tuple[str, str]]) -> Iterator[Any]:
    if not path:
        yield thing
        return
    (key, step), rest = path[0], path[1:]
    items = list(thing.values()) if isinstance(thing, Mapping) else thing if isinstance(thing, list) else []
    if key:
        below = [item for item in items if isinstance(item, Mapping) and _plain(item.get(key)) == step]
    elif step == "*":
        below = items
    elif isinstance(thing, Mapping):
        below = [thing[step]] if step in thing else []
    else:
        below = items[int(step) : int(step) + 1] if step.isdigit() else []
    for item in below:
        yield from _found(item, rest)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
