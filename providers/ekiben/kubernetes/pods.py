"""The shape of every pod of Ekiben's: what Pod Security's level "restricted" asks, and no more than it needs.

All of it is said of the container, not of the pod: so Knative takes it, too, without any of its feature flags.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ekiben.bentos import environment
from ekiben.kubernetes.facts import S3
from ekiben.records import ModelVersion

__all__ = ["USER", "pod", "s3_variables", "secret_variable", "serving", "variable"]

# The unprivileged user of environment images. An emptyDir can be written by anybody.
USER = 65532
SECURITY: Mapping[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod(
    name: str,
    image: str,
    *,
    vcpu: float,
    memory_mib: int,
    idle_vcpu: float = 0.0,
    gpus: int = 0,
    gpu_resource: str = "nvidia.com/gpu",
    command: Sequence[str] = (),
    variables: Sequence[Mapping[str, Any]] = (),
    ports: Sequence[Mapping[str, Any]] = (),
    writable_mib: int = 1024,
    **more: Any,
) -> dict[str, Any]:
    """A PodSpec with one container, which may write below /tmp alone, `writable_mib` at most.

    idle_vcpu: what it is put on a node for, where that is less than it may use. more: what the pod says beside that
    (serviceAccountName, nodeSelector, tolerations, priorityClassName, ...). Without automountServiceAccountToken=True no pod has
    a token.
    """
    amounts = {"cpu": f"{math.ceil(vcpu * 1000)}m", "memory": f"{memory_mib}Mi"}
    gpu = {gpu_resource: str(gpus)} if gpus else {}
    container: dict[str, Any] = {
        "name": name,
        "image": image,
        "env": [variable("HOME", "/tmp"), variable("TMPDIR", "/tmp"), *map(dict, variables)],  # noqa: S108 - its own
        "resources": {
            "requests": {**amounts, **gpu, **({"cpu": f"{math.ceil(idle_vcpu * 1000)}m"} if idle_vcpu else {})},
            "limits": {**amounts, **gpu},
        },
        "securityContext": dict(SECURITY),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }
    if command:
        container["command"] = list(command)
    if ports:
        container["ports"] = [dict(port) for port in ports]
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": f"{writable_mib}Mi"}}],
        **more,
    }


def serving(shape: Mapping[str, Any], version: ModelVersion, revision: str) -> dict[str, Any]:
    """The pod of a revision: that of its endpoint, and the version that its server is to fetch."""
    made = copy.deepcopy(dict(shape))
    made["containers"][0]["env"] = [
        *made["containers"][0].get("env", ()),
        *(variable(name, value) for name, value in environment(version).items()),
        variable("EKIBEN_SERVER_REVISION", revision),
    ]
    return made


def variable(name: str, value: str) -> dict[str, Any]:
    """An environment variable of a container."""
    return {"name": name, "value": value}


def secret_variable(name: str, secret: str, key: str) -> dict[str, Any]:
    """An environment variable whose value is in a Secret."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def s3_variables(s3: S3) -> list[dict[str, Any]]:
    """What a pod needs to use the store, as obstore, boto3 and Ekiben's own bootstrap read it."""
    return [
        secret_variable("AWS_ACCESS_KEY_ID", s3.secret, "access_key_id"),
        secret_variable("AWS_SECRET_ACCESS_KEY", s3.secret, "secret_access_key"),
        variable("AWS_ENDPOINT_URL", s3.url),
        variable("AWS_REGION", s3.region),
        variable("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "false"),
        variable("EKIBEN_S3_SECRET", s3.secret),
    ]
