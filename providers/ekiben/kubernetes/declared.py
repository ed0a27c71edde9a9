"""Resources that no other plugin has: random keys that only the cluster knows, buckets and what lies in them, images that are built
on this machine, and what runs and deployments leave, which goes with the platform.

Of the plugin `pulumi-resource-ekiben`; `ekiben.engine.kinds` says what each function has to do. The cluster is that of the
kubeconfig, as for the run face.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ekiben.engine import kinds
from ekiben.engine.kinds import Kind, changes
from ekiben.kubernetes import buckets, builds, leftovers, mirror, owners, secrets, wheels
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.facts import Mlflow
from ekiben.kubernetes.mlflow import Server

__all__ = ["KINDS", "begun", "changes", "delete", "identity", "lost", "problems", "put", "read"]

WHERE: Mapping[str, type] = {"context": str, "namespace": str}
# Of an S3-compatible store, as in `facts.S3`: a bucket, and a file of this machine that is to lie in it.
BUCKET: Mapping[str, type] = {"s3": dict, "bucket": str}
FILE: Mapping[str, type] = {**BUCKET, "key": str, "source_path": str}
# How the cluster and the store are reached, and where a file is on this machine, makes no difference to what is there.
REACHED = frozenset({"context", "s3", "source_path"})


def _in_cluster(
    name: str, inputs: Mapping[str, type], *,
    output: str = "", fixed: Sequence[str] = (), chosen: Mapping[str, Callable[[], str]] | None = None,
) -> Kind:  # fmt: skip
    """A kind of things that are told apart by their namespace and by what is `fixed`."""
    return Kind(
        name=name,
        inputs={**WHERE, **inputs},
        outputs={output: str} if output else {},
        fixed=frozenset({"namespace", *fixed}),
        quiet=REACHED & {*WHERE, *inputs},
        optional=frozenset({"context"}),
        chosen=chosen or {},
    )


KINDS = {
    kind.name: kind
    for kind in (
        # Whose the namespace is. It is another's where that says another `owner`.
        _in_cluster("Owner", {"owner": str}, chosen={"owner": owners.made_up}),
        # A Secret of this name with a random value for each of `fields`. One that is there keeps its values.
        _in_cluster("Keys", {"secret": str, "fields": list, "labels": dict}, output="uid", fixed=["secret"]),
        # keep: it is left, with what is in it, when this is destroyed.
        _in_cluster("Bucket", {**BUCKET, "keep": bool}, output="uri", fixed=["bucket"]),
        _in_cluster("Object", {**FILE, "sha256": str}, output="uri", fixed=["bucket", "key"]),
        # The wheels of the requirements.txt at source_path, below a prefix: `key`, which ends with a slash.
        _in_cluster("Wheels", {**FILE, "python": str}, output="uri", fixed=["bucket", "key"]),
        # An environment image. source: the zip of its context; image_uri: by its digest. The registry keeps it.
        Kind(
            name="Image",
            inputs={"repository": str, "tag": str, "source": str},
            outputs={"image_uri": str},
            fixed=frozenset({"repository", "tag"}),
            quiet=frozenset({"source"}),
        ),
        # All objects with these labels that were made at run time, by runs and deployments.
        _in_cluster("Made", {"labels": dict}),
        # The registered models that a registry shows in an MLflow server (`facts.Mlflow`); `models`: what their names begin with.
        _in_cluster("Models", {"mlflow": dict, "models": str}, fixed=["models"]),
    )
}


def problems(kind: Kind, inputs: Mapping[str, Any], unknown: object) -> list[tuple[str, str]]:
    """What is wrong with the inputs. Raises AlreadyExists for an Owner whose namespace is another's."""
    found = kinds.problems(kind, inputs, unknown)
    if kind.name == "Owner" and not found:
        owners.check(_cluster(inputs), inputs["owner"])
    return found


def identity(kind: Kind, inputs: Mapping[str, Any]) -> str:
    told = [str(inputs[name]) for name in kind.inputs if name in kind.fixed]
    return "/".join([kind.path, *told, *([leftovers.component(inputs["labels"])] if kind.name == "Made" else [])])


def begun(kind: Kind, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The state of one whose making was begun, and nobody saw it end."""
    return {**inputs, **dict.fromkeys(kind.outputs, "")}


def lost(kind: Kind, state: Mapping[str, Any]) -> str:
    """The output that is true no more: the thing was deleted by hand, or is another one."""
    found = read(kind, state)
    for name in kind.outputs:
        if found is None or found[1][name] != state.get(name):
            return name
    return ""


def put(
    kind: Kind, urn: str, inputs: Mapping[str, Any], timeout_s: float = 0.0, stopped: threading.Event | None = None
) -> dict[str, Any]:
    """Make it so; returns the state."""
    stopped = stopped or threading.Event()
    if kind.name == "Keys":
        uid = secrets.made(_cluster(inputs), inputs["secret"], inputs["fields"], inputs["labels"])
        return {**inputs, "uid": uid}
    if kind.name == "Bucket":
        return {**inputs, "uri": buckets.made(_cluster(inputs), inputs["s3"], inputs["bucket"], stopped)}
    if kind.name == "Object":
        return {**inputs, "uri": buckets.uploaded(_cluster(inputs), **_object(inputs), source=inputs["source_path"])}
    if kind.name == "Wheels":
        lock, place = Path(inputs["source_path"]), (inputs["s3"], inputs["bucket"], inputs["key"])
        wheels.kept(_cluster(inputs), *place, lock, inputs["python"], stopped, timeout_s)
        return {**inputs, "uri": f"s3://{inputs['bucket']}/{inputs['key']}"}
    if kind.name == "Image":
        built = builds.built(
            inputs["repository"], inputs["tag"], inputs["source"], stopped=stopped, timeout_s=timeout_s
        )
        return {**inputs, "image_uri": built}
    return dict(inputs)


def read(kind: Kind, state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(inputs, state) as they are now, None when it is gone."""
    inputs = {key: state[key] for key in kind.inputs if key in state}
    if not kind.outputs:
        return inputs, dict(inputs)
    (output,) = kind.outputs
    value = _found(kind, state)
    return (inputs, {**inputs, output: value}) if value else None


def delete(kind: Kind, urn: str, state: Mapping[str, Any], timeout_s: float = 0.0) -> None:
    """Undo it; silent where nothing is."""
    if kind.name == "Keys":
        secrets.deleted(_cluster(state), state["secret"])
    elif kind.name == "Bucket" and not state["keep"]:
        buckets.deleted(_cluster(state), state["s3"], state["bucket"])
    elif kind.name == "Object":
        buckets.removed(_cluster(state), **_object(state))
    elif kind.name == "Wheels":  # without its list it is none
        buckets.removed(_cluster(state), **_object(state, wheels.LIST))
    elif kind.name == "Made":
        leftovers.deleted(_cluster(state), state["labels"], timeout_s)
    elif kind.name == "Models":
        mirror.forgotten(Server(_cluster(state), Mlflow.from_dict(state["mlflow"])))


def _found(kind: Kind, state: Mapping[str, Any]) -> str:
    if kind.name == "Keys":
        return secrets.found(_cluster(state), state["secret"], state["fields"])
    if kind.name == "Bucket":
        return buckets.found(_cluster(state), state["s3"], state["bucket"])
    if kind.name == "Object":
        return buckets.held(_cluster(state), **_object(state))
    if kind.name == "Wheels":
        return buckets.held(_cluster(state), **_object(state, wheels.LIST)).removesuffix(wheels.LIST)
    return builds.found(state["repository"], state["tag"])


def _cluster(state: Mapping[str, Any]) -> Cluster:
    return Cluster(state["namespace"], state.get("context") or "")


def _object(state: Mapping[str, Any], below: str = "") -> dict[str, Any]:
    """The object that it is, or one that lies below it."""
    return {"s3": state["s3"], "bucket": state["bucket"], "key": state["key"] + below}
