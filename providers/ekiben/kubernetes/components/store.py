"""The S3-compatible store of a stack that has none: versitygw on a volume, with keys that only the cluster knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from ekiben.components import Component
from ekiben.kubernetes.components.namespace import namespace_of, port
from ekiben.kubernetes.components.program import current, labels_of
from ekiben.kubernetes.components.resources import Keys
from ekiben.kubernetes.components.settings import Settings
from ekiben.kubernetes.facts import S3
from ekiben.kubernetes.pods import USER, pod, secret_variable, variable

__all__ = ["NAME", "PORT", "SELECTOR", "Store", "store_of"]

# No component can be called so.
NAME = "ekiben-store"
PORT = 7070
SELECTOR = {"app.kubernetes.io/name": NAME}
KEYS = ("access_key_id", "secret_access_key")
DATA = "/data"
VCPU, IDLE_VCPU, MEMORY_MIB = 1.0, 0.05, 512
HEALTH = "/healthz"


@dataclass
class Store:
    """s3: what everybody needs to know of it. ready: what has to be there before a bucket is made."""

    s3: pulumi.Output[dict[str, Any]]
    ready: list[pulumi.Resource]
    own: bool


def store_of(component: Component[Any]) -> Store:
    """The one of the stack: that of the config, or one that is run in the namespace."""
    program = current()
    if program.store is None:
        told = program.settings
        program.store = _given(told) if told.s3_endpoint else _run(component, told)
    return program.store


def _given(told: Settings) -> Store:
    s3 = S3(url=told.s3_endpoint, secret=told.s3_secret, region=told.s3_region, outside_url=told.s3_outside_url)
    return Store(pulumi.Output.from_input(s3.to_dict()), [], own=False)


def _run(component: Component[Any], told: Settings) -> Store:
    namespace = namespace_of(component)
    opts, labels = namespace.opts, {**labels_of(""), **SELECTOR}

    def called(what: str = "") -> str:
        return f"{pulumi.get_project()}-{pulumi.get_stack()}-{NAME}{what}"

    def meta(name: str = NAME, **annotations: pulumi.Input[str]) -> dict[str, Any]:
        made = {"name": name, "namespace": namespace.name, "labels": labels}
        return {**made, "annotations": annotations} if annotations else made

    keys = Keys(
        called("-keys"),
        {"context": told.context, "namespace": namespace.name, "secret": NAME, "fields": list(KEYS), "labels": labels},
        opts=opts,
    )
    account = k8s.core.v1.ServiceAccount(
        called(), metadata=meta(), automount_service_account_token=False,
        image_pull_secrets=[{"name": told.pull_secret}] if told.pull_secret else None, opts=opts,
    )  # fmt: skip
    # It is bound when the store's pod is there, with which its class may wait: nobody waits for it here.
    volume = k8s.core.v1.PersistentVolumeClaim(
        called(),
        metadata=meta(NAME, **{"pulumi.com/skipAwait": "true"}),
        spec={
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": f"{told.store_gib}Gi"}},
            **({"storageClassName": told.storage_class} if told.storage_class else {}),
        },
        opts=opts,
    )
    guard = k8s.networking.v1.NetworkPolicy(
        called(),
        metadata=meta(),
        spec={
            "podSelector": {"matchLabels": SELECTOR},
            "policyTypes": ["Ingress"],
            "ingress": [{**_callers(told), "ports": [port(PORT)]}],
        },
        opts=opts,
    )
    ready = k8s.apps.v1.StatefulSet(
        called(),
        metadata=meta(),
        spec={
            "replicas": 1,
            "serviceName": NAME,
            "selector": {"matchLabels": SELECTOR},
            "template": {
                # Other keys are other pods.
                "metadata": {"labels": labels, "annotations": {"ekiben.dev/keys": keys.uid}},
                "spec": _pod(told),
            },
        },
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[account, volume, guard])),
    )
    service = k8s.core.v1.Service(
        called(), metadata=meta(), spec={"selector": SELECTOR, "ports": [port(PORT)]},
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[ready])),
    )  # fmt: skip
    s3 = namespace.name.apply(
        lambda name: S3(
            url=f"http://{NAME}.{name}.svc:{PORT}", secret=NAME, region=told.s3_region,
            outside_url=told.s3_outside_url, service=f"{NAME}:{PORT}",
        ).to_dict()
    )  # fmt: skip
    return Store(s3, [keys, ready, service], own=True)


def _pod(told: Settings) -> dict[str, Any]:
    """One pod, whose volume belongs to its group where the volume's kind can be owned."""
    variables = [
        secret_variable("ROOT_ACCESS_KEY", NAME, KEYS[0]),
        secret_variable("ROOT_SECRET_KEY", NAME, KEYS[1]),
        variable("VGW_PORT", f":{PORT}"),
        variable("VGW_REGION", told.s3_region),
        variable("VGW_HEALTH", HEALTH),
    ]
    made = pod(
        NAME, told.store_image, vcpu=VCPU, idle_vcpu=IDLE_VCPU, memory_mib=MEMORY_MIB, variables=variables,
        ports=[{"name": "s3", "containerPort": PORT}], serviceAccountName=NAME, securityContext={"fsGroup": USER},
    )  # fmt: skip
    (container,) = made["containers"]
    container["args"] = ["posix", DATA]
    container["readinessProbe"] = {"httpGet": {"path": HEALTH, "port": PORT}, "periodSeconds": 2}
    container["volumeMounts"].append({"name": "data", "mountPath": DATA})
    made["volumes"].append({"name": "data", "persistentVolumeClaim": {"claimName": NAME}})
    return made


def _callers(told: Settings) -> dict[str, Any]:
    """The stack's own pods, and everybody where it has an address outside, be it behind a pod: all have to show a key."""
    return {} if told.s3_outside_url else {"from": [{"podSelector": {}}]}
