"""Objects of the API server as Pulumi's inputs and outputs: names, annotations, what is secret, what only the server knows."""

from __future__ import annotations

import base64
import copy
import hashlib
from collections.abc import Mapping
from typing import Any

from pulumi.runtime.rpc import UNKNOWN

from ekiben.emulators.kubernetes.plugin.server import Kind
from ekiben.emulators.plugins.types import SIGNATURE
from ekiben.emulators.plugins.wire import unique_name

__all__ = [
    "AUTONAMED", "FORCE", "MANAGER", "annotation", "asked", "flag", "hidden", "imported", "manager_of", "named", "outputs",
    "owns", "planned",
]  # fmt: skip

AUTONAMED, FORCE, MANAGER = "pulumi.com/autonamed", "pulumi.com/patchForce", "pulumi.com/patchFieldManager"
# In outputs, beside the object: who has applied it. Pulumi's own plugin keeps it at this name.
KEPT_MANAGER = "__fieldManager"
SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 -- marks a secret on the wire (pulumi.runtime.rpc._special_secret_sig)
SECRET_KEYS = ("data", "stringData")
NAME_CHARS = 253  # of a DNS subdomain, RFC 1123, which is what most kinds ask of a name
NAME_TAIL = 8
SERVER_METADATA = ("creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "generation", "managedFields",
                   "resourceVersion", "selfLink", "uid")  # fmt: skip
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
# What the server chooses when an object is really made; a dry run may choose another.
CHOSEN: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "Service": (("spec", "clusterIP"), ("spec", "clusterIPs"), ("spec", "healthCheckNodePort")),
    "PersistentVolumeClaim": (("spec", "volumeName"),),
    "Pod": (("spec", "nodeName"),),
}


def annotation(thing: Mapping[str, Any], name: str) -> str:
    metadata = thing.get("metadata")
    found = (metadata.get("annotations") if isinstance(metadata, Mapping) else None) or {}
    return str(found.get(name, "")) if isinstance(found, Mapping) else ""


def flag(thing: Mapping[str, Any], name: str) -> bool:
    return annotation(thing, name).lower() in ("true", "1")


def named(inputs: Mapping[str, Any], old: Mapping[str, Any], urn: str, seed: bytes) -> dict[str, Any]:
    """The inputs with a name: their own, else the one that was chosen before, else a new one, after `generateName` if given."""
    made = copy.deepcopy(dict(inputs))
    metadata = made.setdefault("metadata", {})
    if not isinstance(metadata, dict) or "name" in metadata:
        return made
    prefix = metadata.get("generateName", "")
    if prefix == UNKNOWN:
        return made
    before = old.get("metadata") or {}
    if "name" in before and flag(old, AUTONAMED):
        metadata["name"] = before["name"]
    elif prefix:
        metadata["name"] = str(prefix)[: NAME_CHARS - NAME_TAIL] + hashlib.sha256(seed).hexdigest()[:NAME_TAIL]
    else:
        metadata["name"] = unique_name(urn, seed, tail_chars=NAME_TAIL, name_chars=NAME_CHARS)
    if metadata.get("annotations", {}) != UNKNOWN:
        metadata["annotations"] = {**metadata.get("annotations", {}), AUTONAMED: "true"}
    return made


def asked(inputs: Mapping[str, Any], api: str, kind: Kind | None, namespace: str) -> dict[str, Any]:
    """The object that the inputs ask for: with its kind, in its namespace."""
    thing = {key: copy.deepcopy(value) for key, value in inputs.items() if not key.startswith("__") and key != "status"}
    thing.setdefault("apiVersion", api)
    for key in ("annotations", "labels"):
        if isinstance(thing.get("metadata"), dict) and thing["metadata"].get(key) == {}:
            del thing["metadata"][key]  # the server keeps no empty one, nor who has set it
    if kind is not None:
        thing["kind"] = kind.name
        if kind.namespaced:
            thing["metadata"] = {"namespace": namespace, **thing["metadata"]}
        else:
            thing["metadata"].pop("namespace", None)
    return thing


def manager_of(urn: str, inputs: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """Who applies it: the manager that the program names, the one that has applied it before, else one of the resource's own.

    It follows from the URN, so that what was made when the engine was killed is known again.
    """
    own = f"pulumi-kubernetes-{hashlib.sha256(urn.encode()).hexdigest()[:8]}"
    return annotation(inputs, MANAGER) or str(state.get(KEPT_MANAGER) or own)


def owns(live: Mapping[str, Any], manager: str) -> dict[str, Any] | None:
    """The fields that the manager has applied, as the server keeps them; None where it has applied none."""
    for entry in (live.get("metadata") or {}).get("managedFields") or ():
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource"):
            return dict(entry.get("fieldsV1") or {})
    return None


def outputs(live: Mapping[str, Any], inputs: Mapping[str, Any], manager: str) -> dict[str, Any]:
    """The state of a resource: the object as it is, without who owns which field, and what is secret marked so."""
    metadata = {key: value for key, value in live["metadata"].items() if key != "managedFields"}
    state = {**live, "metadata": metadata, KEPT_MANAGER: manager}
    if "stringData" in inputs:  # the server keeps it as `data` only
        state["stringData"] = inputs["stringData"]
    return hidden(state)


def hidden(thing: Mapping[str, Any]) -> dict[str, Any]:
    """A Secret's content, and what was applied before by kubectl, marked as secret; all else as it is."""
    made = dict(thing)
    if thing.get("kind") == "Secret" and thing.get("apiVersion", "v1") == "v1":
        for key in SECRET_KEYS:
            if made.get(key) not in (None, UNKNOWN):
                made[key] = _secret(made[key])
        metadata = made.get("metadata")
        if isinstance(metadata, Mapping) and annotation(thing, LAST_APPLIED):
            notes = {**metadata["annotations"], LAST_APPLIED: _secret(metadata["annotations"][LAST_APPLIED])}
            made["metadata"] = {**metadata, "annotations": notes}
    return made


def planned(thing: Mapping[str, Any], *, created: bool) -> dict[str, Any]:
    """The outputs of a preview, from a dry run or from inputs: what only the server can say is not known yet."""
    made = copy.deepcopy(dict(thing))
    metadata = made["metadata"]
    metadata.pop("managedFields", None)
    fresh = SERVER_METADATA if created else ("generation", "resourceVersion")
    metadata.update({key: UNKNOWN for key in fresh if key in metadata or key in ("uid", "resourceVersion")})
    made["status"] = UNKNOWN
    for path in CHOSEN.get(str(made.get("kind")), ()) if created else ():
        within: Any = made
        for key in path[:-1]:
            within = within.get(key, {}) if isinstance(within, Mapping) else {}
        if isinstance(within, dict) and within.get(path[-1]) not in ("None", ["None"]):
            within[path[-1]] = UNKNOWN
    return hidden(made)


def imported(live: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that ask for an object as it is."""
    made = copy.deepcopy({key: value for key, value in live.items() if key != "status"})
    metadata = {key: value for key, value in made["metadata"].items() if key not in SERVER_METADATA}
    if notes := {key: value for key, value in metadata.get("annotations", {}).items() if key != LAST_APPLIED}:
        metadata["annotations"] = notes
    else:
        metadata.pop("annotations", None)
    return {**made, "metadata": metadata}


def decoded(value: str) -> str | None:
    """The text that a Secret's base64 stands for, None where it is no text."""
    try:
        return base64.b64decode(value, validate=True).decode()
    except ValueError:
        return None


def _secret(value: Any) -> dict[str, Any]:
    return {SIGNATURE: SECRET, "value": value}
