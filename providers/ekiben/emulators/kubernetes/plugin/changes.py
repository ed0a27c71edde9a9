"""What a change of inputs does to an object: nothing, an update in place, or another object in its place.

The server is the judge: a dry run says what it would make of the new inputs, and what it never changes. Where it cannot be asked,
because something is not known yet, the table of fixed fields is all there is.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ekiben.emulators.kubernetes.plugin import objects
from ekiben.emulators.kubernetes.plugin.paths import Path, differences, parsed, put, value_at, within
from ekiben.emulators.kubernetes.plugin.server import Kind, Refused, Server

__all__ = ["Change", "change", "drifted", "judged", "kept"]

# Kind -> the fields that no update changes (https://kubernetes.io/docs/reference/kubernetes-api/). Of a ConfigMap and a Secret it
# is Pulumi's own choice: what uses one sees its new content only as another one.
FIXED: Mapping[str, tuple[str, ...]] = {
    "ConfigMap": ("data", "binaryData"),
    "Secret": ("data", "stringData", "type"),
    "Service": ("spec.clusterIP", "spec.clusterIPs"),
    "PersistentVolumeClaim": ("spec.accessModes", "spec.selector", "spec.storageClassName", "spec.volumeMode", "spec.volumeName"),
    "apps/DaemonSet": ("spec.selector",),
    "apps/Deployment": ("spec.selector",),
    "apps/ReplicaSet": ("spec.selector",),
    "apps/StatefulSet": ("spec.podManagementPolicy", "spec.selector", "spec.serviceName", "spec.volumeClaimTemplates"),
    "batch/Job": ("spec.backoffLimitPerIndex", "spec.completionMode", "spec.manualSelector", "spec.podFailurePolicy",
                  "spec.selector", "spec.successPolicy", "spec.template"),
    "rbac.authorization.k8s.io/ClusterRoleBinding": ("roleRef",),
    "rbac.authorization.k8s.io/RoleBinding": ("roleRef",),
    "scheduling.k8s.io/PriorityClass": ("preemptionPolicy", "value"),
    "storage.k8s.io/StorageClass": ("parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"),
}  # fmt: skip
IDENTITY = (("metadata", "name"), ("metadata", "namespace"))
# The server's words for a field that stays as it was made.
STAYS = re.compile(
    r"immutable|(may|can) ?not (be )?(change|update)|updates to .* are forbidden|Forbidden: updates|not be changed"
)
# By what the items of a list are told apart, the first that all of them have.
ITEM_KEYS = ("name", "key", "mountPath", "devicePath", "containerPort", "port", "topologyKey", "ip", "uid", "type")
PASSING = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "uid")

# At two states of an object that is being made by its controllers, until two looks see the same one.
LOOKS = 5


@dataclass(frozen=True, kw_only=True)
class Change:
    """The places that differ, those of them that take another object, and whether the old one must go first."""

    paths: tuple[Path, ...] = ()
    replaces: tuple[Path, ...] = ()
    delete_first: bool = False


def change(
    server: Server | None, kind: Kind | None, old: Mapping[str, Any], new: Mapping[str, Any], *,
    manager: str, force: bool, mutable: Iterable[str] = (), ignored: Sequence[str] = (),
) -> Change:  # fmt: skip
    """From the object that was asked for to the one that is. `mutable`: kinds whose content changes in place after all.

    server: None where it cannot be asked.
    """
    paths = tuple(path for path in differences(old, new) if path != ("apiVersion",) or _group(old) != _group(new))
    if not paths:
        return Change()
    replaces = _fixed(new, paths, frozenset(mutable))
    if not replaces and server is not None and kind is not None:
        try:
            live, dry = judged(server, kind, new, manager=manager, force=force, ignored=ignored)
        except Refused as refused:
            # Any other refusal is the update's to tell, in a preview too: a refresh asks what differs, and changes nothing.
            replaces = _staying(refused, paths)
        else:
            if live is not None and _lasting(dry) == _lasting(live):
                owned = objects.owns(live, manager)
                if owned is None or owned == objects.owns(dry, manager):
                    return Change()
    same_name = all(value_at(old, place) == value_at(new, place) for place in IDENTITY)
    return Change(
        paths=paths,
        replaces=replaces,
        delete_first=bool(replaces) and same_name and not objects.flag(new, objects.AUTONAMED),
    )


def judged(
    server: Server, kind: Kind, thing: Mapping[str, Any], *, manager: str, force: bool, ignored: Sequence[str] = ()
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The object as it is (None where it is not), and as it would be with what is asked for: both at the same moment.

    Raises Refused.
    """
    namespace, name = str(thing["metadata"].get("namespace", "")), str(thing["metadata"]["name"])
    for _ in range(LOOKS):
        live = server.get(kind, namespace, name)
        if live is None:
            return None, {}
        dry = server.apply(kind, kept(thing, live, ignored), manager=manager, force=force, dry_run=True)
        if dry["metadata"].get("resourceVersion") == live["metadata"].get("resourceVersion"):
            break  # else a controller has changed it in between
    return live, dry


def kept(thing: Mapping[str, Any], live: Mapping[str, Any], ignored: Sequence[str]) -> dict[str, Any]:
    """What is asked for, with what is there at the places whose changes the program ignores: it is others who change them."""
    made = copy.deepcopy(dict(thing))
    for place in ignored:
        path = parsed(place)
        if (found := value_at(live, path)) is not None and path not in IDENTITY:
            put(made, path, found)
    return made


def drifted(asked: Any, wanted: Any, found: Any) -> Any:
    """What was asked for, changed where somebody else has changed it since: where what is found is not what the server makes of
    what was asked for. So what the server adds, or writes in another way, is no difference."""
    if wanted == found:
        return asked
    if isinstance(asked, Mapping) and isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return {
            key: drifted(item, wanted.get(key), found.get(key))
            for key, item in asked.items()
            if key in found or key not in wanted
        }
    if isinstance(asked, list) and isinstance(wanted, list) and isinstance(found, list):
        if key := next(
            (key for key in ITEM_KEYS if all(_told_apart(items, key) for items in (asked, wanted, found))), ""
        ):
            before, now = ({item[key]: item for item in items} for items in (wanted, found))
            stay = [drifted(item, before.get(item[key]), now[item[key]]) for item in asked if item[key] in now]
            return stay + [item for name, item in now.items() if name not in before]
        if len(asked) == len(wanted) == len(found):
            return [drifted(*each) for each in zip(asked, wanted, found, strict=True)]
    return copy.deepcopy(found)


def _told_apart(items: Sequence[Any], key: str) -> bool:
    names = [item.get(key) if isinstance(item, Mapping) else None for item in items]
    return all(isinstance(name, str | int) for name in names) and len(set(names)) == len(names)


def _fixed(new: Mapping[str, Any], paths: Sequence[Path], mutable: frozenset[str]) -> tuple[Path, ...]:
    kind, group = str(new.get("kind")), _group(new)
    fixed = [*IDENTITY, *map(parsed, FIXED.get(f"{group}/{kind}" if group else kind, ()))]
    if kind in mutable:
        fixed = [path for path in fixed if path[0] not in ("data", "stringData", "binaryData")]
    return tuple(path for path in paths if any(within(path, one) for one in fixed))


def _staying(refused: Refused, paths: Sequence[Path]) -> tuple[Path, ...]:
    """The places of which the server says that they stay; none where it refuses for another reason, too."""
    if refused.status != 422 or not refused.causes or not all(STAYS.search(said) for _, _, said in refused.causes):
        return ()
    named = [parsed(field) for _, field, _ in refused.causes if re.fullmatch(r"[\w.\[\]]+", field)]
    below = tuple(path for path in paths if any(within(path, one) or within(one, path) for one in named))
    return below or tuple(paths)


def _lasting(thing: Mapping[str, Any]) -> dict[str, Any]:
    """An object without what changes by itself."""
    metadata = {key: value for key, value in thing["metadata"].items() if key not in PASSING}
    return {**{key: value for key, value in thing.items() if key != "status"}, "metadata": metadata}


def _group(thing: Mapping[str, Any]) -> str:
    return str(thing.get("apiVersion", "")).rpartition("/")[0]
