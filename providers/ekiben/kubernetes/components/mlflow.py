"""The MLflow server that registries show their versions in: one that the stack's config names, or one that runs in the namespace.

The one that runs keeps names, tags and aliases in SQLite on a volume; it proxies no artifacts, and has no key of the store: where a
model lies, the version says. It asks nobody who comes, so nobody is let in but the stack's pods, and those of kube-system, through
which the API server comes where it is not on the nodes' network. Its options: https://mlflow.org/docs/latest/cli.html#mlflow-server.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from ekiben.components import Component
from ekiben.errors import Unsupported
from ekiben.kubernetes.components.namespace import namespace_of, port
from ekiben.kubernetes.components.program import current, labels_of
from ekiben.kubernetes.components.settings import Settings
from ekiben.kubernetes.facts import Mlflow
from ekiben.kubernetes.pods import USER, pod, variable

__all__ = ["NAME", "PORT", "mlflow_of"]

# No component can be called so.
NAME = "ekiben-mlflow"
PORT = 5000
SELECTOR = {"app.kubernetes.io/name": NAME}
DATA, VOLUME_GIB = "/data", 1
VCPU, IDLE_VCPU, MEMORY_MIB = 1.0, 0.05, 1024
# It imports for a while before it listens, and makes its tables the first time.
START_S, LOOK_S = 300, 2
STORE = f"sqlite:///{DATA}/mlflow.db"
# It refuses tables of an older MLflow, and ends: the container's second start in its pod brings them up to date.
BEGIN = f'[ ! -e /tmp/begun ] || mlflow db upgrade {STORE}; touch /tmp/begun; exec mlflow server "$@"'
VARIABLES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # It runs nothing for anybody.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # Callers say the name of the Service, its address, or the API server's; other sites' pages are refused by their origin.
    "MLFLOW_SERVER_ALLOWED_HOSTS": "*",
}


def mlflow_of(component: Component[Any]) -> tuple[pulumi.Output[dict[str, Any]], bool]:
    """What a registry is told of the server (`facts.Mlflow`), and whether that is somebody else's: then what it shows there has to
    be deleted some day. Raises Unsupported where it has to be shown, and the config names no server and no image.
    """
    told, name = current().settings, component.name
    if component.spec.mirror == "off" or not (told.mlflow_uri or told.mlflow_image):
        if component.spec.mirror == "required":
            raise Unsupported(
                f"RegistrySpec of {name!r}: mirror='required': the stack's config names no MLflow server to show versions in. Name "
                "yours with `pulumi config set ekiben:mlflowUri URL`, or an image to run one of with `pulumi config set "
                "ekiben:mlflowImage IMAGE` (the project's own are ghcr.io/mlflow/mlflow:vVERSION)."
            )
        return pulumi.Output.from_input(Mlflow().to_dict()), False
    if told.mlflow_uri:
        uri, secret = told.mlflow_uri, told.mlflow_secret
        return _start(component).apply(lambda start: Mlflow(url=uri, models=start, secret=secret).to_dict()), True
    program = current()
    if program.mlflow is None:
        program.mlflow = _run(component, told)
    return program.mlflow.apply(lambda url: Mlflow(url=url, models=name, service=f"{NAME}:{PORT}").to_dict()), False


def _start(component: Component[Any]) -> pulumi.Output[str]:
    """What the names of a registry's models begin with in a server of others: no other stack's do, nor those of the same one made
    anew, whose versions begin with 1 again."""
    made = namespace_of(component).made

    def start(metadata: Any) -> str:
        whose = json.dumps([metadata["name"], metadata.get("uid") or ""])
        return f"{metadata['name']}-{hashlib.sha256(whose.encode()).hexdigest()[:8]}.{component.name}"

    found: pulumi.Output[str] = made.metadata.apply(start)
    return found


def _run(component: Component[Any], told: Settings) -> pulumi.Output[str]:
    """Its URL in the cluster."""
    namespace = namespace_of(component)
    opts, labels = namespace.opts, {**labels_of(""), **SELECTOR}
    called = f"{pulumi.get_project()}-{pulumi.get_stack()}-{NAME}"

    def meta(**annotations: str) -> dict[str, Any]:
        made = {"name": NAME, "namespace": namespace.name, "labels": labels}
        return {**made, "annotations": annotations} if annotations else made

    account = k8s.core.v1.ServiceAccount(
        called, metadata=meta(), automount_service_account_token=False,
        image_pull_secrets=[{"name": told.pull_secret}] if told.pull_secret else None, opts=opts,
    )  # fmt: skip
    # Bound when its pod is there: nobody waits for it here.
    volume = k8s.core.v1.PersistentVolumeClaim(
        called,
        metadata=meta(**{"pulumi.com/skipAwait": "true"}),
        spec={
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": f"{VOLUME_GIB}Gi"}},
            **({"storageClassName": told.storage_class} if told.storage_class else {}),
        },
        opts=opts,
    )
    callers = [
        {"podSelector": {}},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}},
    ]
    guard = k8s.networking.v1.NetworkPolicy(
        called,
        metadata=meta(),
        spec={
            "podSelector": {"matchLabels": SELECTOR},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": callers, "ports": [port(PORT)]}],
        },
        opts=opts,
    )
    server = k8s.apps.v1.StatefulSet(
        called,
        metadata=meta(),
        spec={
            "replicas": 1,
            "serviceName": NAME,
            "selector": {"matchLabels": SELECTOR},
            "template": {"metadata": {"labels": labels}, "spec": _pod(told)},
        },
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[account, volume, guard])),
    )
    k8s.core.v1.Service(
        called, metadata=meta(), spec={"selector": SELECTOR, "ports": [port(PORT)]},
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[server])),
    )  # fmt: skip
    return namespace.name.apply(lambda name: f"http://{NAME}.{name}.svc:{PORT}")


def _pod(told: Settings) -> dict[str, Any]:
    """One pod, whose volume belongs to its group where the volume's kind can be owned."""
    command = [
        "sh", "-c", BEGIN, "mlflow", "--host", "0.0.0.0", "--port", str(PORT), "--workers", "1",  # noqa: S104 - in the cluster
        "--backend-store-uri", STORE, "--no-serve-artifacts", "--default-artifact-root", f"{DATA}/none",
    ]  # fmt: skip
    made = pod(
        NAME.removeprefix("ekiben-"), told.mlflow_image, vcpu=VCPU, idle_vcpu=IDLE_VCPU, memory_mib=MEMORY_MIB, command=command,
        variables=[variable(*one) for one in VARIABLES.items()], ports=[{"name": "http", "containerPort": PORT}],
        serviceAccountName=NAME, securityContext={"fsGroup": USER},
    )  # fmt: skip
    (container,) = made["containers"]
    asked = {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": LOOK_S, "timeoutSeconds": LOOK_S}
    container["startupProbe"] = {**asked, "failureThreshold": START_S // LOOK_S}
    container["readinessProbe"] = asked
    container["volumeMounts"].append({"name": "data", "mountPath": DATA})
    made["volumes"].append({"name": "data", "persistentVolumeClaim": {"claimName": NAME}})
    return made
