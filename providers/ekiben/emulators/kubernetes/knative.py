"""Knative Serving in the cluster: built from its own modules, installed from its own manifests, as a cluster for tests needs it.

Left out are what needs more than one node or what a cluster of the project's own has not: autoscalers and budgets of Knative's
parts, and its certificate.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ekiben.emulators.kubernetes import binaries, images, installing
from ekiben.emulators.kubernetes.api import Api, Refused
from ekiben.emulators.kubernetes.installing import Object, Patience, Say
from ekiben.emulators.kubernetes.layout import INGRESS_INSIDE, INGRESS_NAME, NODE, REGISTRY, Layout

__all__ = ["CONFIG", "MODULE", "ensure", "installed", "objects"]

VERSION = "v0.42.2"
PARTS = ("activator", "autoscaler", "controller", "queue", "webhook")
MODULE = binaries.Module(
    path="knative.dev/serving",
    version=VERSION,
    packages={f"knative-{name}": f"cmd/{name}" for name in PARTS},
    cpu_s=350,
)
# Folders of manifests, by module; https://github.com/knative/serving/tree/main/config/core has links to those of the others.
MANIFESTS = {
    "knative.dev/serving": "config/core",
    "knative.dev/networking": "config",
    "knative.dev/caching": "config",
}
NAMESPACE = "knative-serving"
IMAGE_PREFIX = "ko://knative.dev/serving/cmd/"
UNNEEDED = ("Certificate", "HorizontalPodAutoscaler", "PodDisruptionBudget")
LAST = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
# A public name for every address, as Knative's own default domain has it; where it cannot be looked up, a Host header does.
DOMAIN = f"{NODE}.sslip.io"
# What a stack's config says to use it.
CONFIG = {"ekiben:knative": "true", "ekiben:domain": DOMAIN, "ekiben:ingressUrl": f"http://{NODE}"}
# Times are short, because whoever tests waits for them; one node of two cores holds it all.
SETTINGS: dict[str, dict[str, str]] = {
    "config-autoscaler": {"stable-window": "10s", "scale-to-zero-grace-period": "6s"},
    "config-deployment": {
        # No tag is looked up from inside the cluster, which reaches no other registry.
        "registries-skipping-tag-resolving": f"index.docker.io,docker.io,localhost,dev.local,{REGISTRY}",
    },
    "config-domain": {DOMAIN: ""},
    "config-leader-election": {"lease-duration": "15s", "renew-deadline": "10s", "retry-period": "2s"},
    "config-network": {"ingress-class": "ingress.ekiben.dev"},
}
REQUESTS = {"cpu": "20m", "memory": "60Mi"}
MARK = "knative"
PATIENCE_S = 180.0


def installed(at: Layout) -> bool:
    """Has the cluster of this state folder Knative Serving?"""
    return bool(installing.stamp(at.state / MARK))


def ensure(at: Layout, say: Say = lambda line: None) -> None:
    """Have Knative Serving in the cluster that runs; returns when a Service would be taken. Repeating is safe and cheap.

    Raises what `binaries.ensure` does, and Unavailable where it does not come up.
    """
    with (at.state / f"{MARK}.lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _ensure(Api(at.kubeconfig), at, say)


def _ensure(api: Api, at: Layout, say: Say) -> None:
    folder = binaries.ensure(say, [MODULE])
    references = {
        name: images.push(REGISTRY, images.of_binary(f"knative/{name}:{VERSION}", folder / f"knative-{name}"))
        for name in PARTS
    }
    patience = Patience("Knative Serving", f"See `kubectl get pods --namespace {NAMESPACE}`", PATIENCE_S)
    wanted = objects(installing.manifests(f"knative-{VERSION}", _manifests), references)
    installing.apply(api, wanted, at.state / MARK, patience, say)
    for name in PARTS:
        if name != "queue":
            patience.until(f"its {name}", lambda name=name: installing.available(api, NAMESPACE, name))  # type: ignore[misc]
    patience.until("its admission", lambda: _takes_a_service(api))


def objects(manifests: Iterable[Object], references: Mapping[str, str]) -> list[Object]:
    """What is installed: Knative's manifests with images of ours, by the part's name, and with `SETTINGS`; in order."""
    found = [_object(one, references) for one in manifests if one["kind"] not in UNNEEDED] + _service()
    return sorted(found, key=lambda one: one["kind"] in LAST)


def _object(manifest: Object, references: Mapping[str, str]) -> Object:
    text = json.dumps(manifest)
    for name, reference in references.items():
        text = text.replace(f'"{IMAGE_PREFIX}{name}"', json.dumps(reference))
    made: Object = json.loads(text)
    about = made["metadata"]
    about["labels"] = {**about.get("labels", {}), "app.kubernetes.io/managed-by": "ekiben"}
    if made["kind"] == "ConfigMap":
        kept = {key: value for key, value in (made.get("data") or {}).items() if key != "_example"}
        made["data"] = kept | SETTINGS.get(about["name"], {})
        about.pop("annotations", None)  # a checksum of the example
    if made["kind"] == "Deployment":
        for container in made["spec"]["template"]["spec"]["containers"]:
            container["resources"]["requests"] = dict(REQUESTS)
            container["readinessProbe"]["periodSeconds"] = 1
    return made


def _service() -> list[Object]:
    """The ingress as pods see it: a Service of an address that is no pod's."""
    host, _, port = INGRESS_INSIDE.rpartition(":")
    name = INGRESS_NAME.split(".")[0]
    about = {"name": name, "namespace": NAMESPACE, "labels": {"app.kubernetes.io/managed-by": "ekiben"}}
    labels = {**about["labels"], "kubernetes.io/service-name": name}  # type: ignore[dict-item]
    return [
        {
            "apiVersion": "v1", "kind": "Service", "metadata": about,
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": int(port), "protocol": "TCP"}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {**about, "labels": labels},
            "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
            "ports": [{"name": "http", "port": int(port), "protocol": "TCP"}],
        },
    ]  # fmt: skip


def _manifests() -> list[Object]:
    """Knative's own."""
    import yaml

    folders = binaries.sources(MODULE, *MANIFESTS)
    files = [path for name, below in MANIFESTS.items() for path in sorted(Path(folders[name], below).rglob("*.yaml"))]
    return [one for path in files for one in yaml.safe_load_all(path.read_text("utf-8")) if one]


def _takes_a_service(api: Api) -> bool:
    """Would a Service be taken? It is asked without making one; the webhooks fill in their own addresses after they are up."""
    container = {"image": f"{REGISTRY}/{images.PAUSE}"}
    service = {
        "apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "would-it", "namespace": "default"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }  # fmt: skip
    try:
        api.create("/apis/serving.knative.dev/v1/namespaces/default/services?dryRun=All", service)
    except Refused:
        return False
    return True
