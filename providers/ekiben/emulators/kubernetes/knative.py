"""Knative Serving in the cluster: built from its own modules, installed from its own manifests, as a cluster for tests needs it.

Left out are what needs more than one node or what a cluster of the project's own has not: autoscalers and budgets of Knative's
parts, and its certificate.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ekiben.emulators.kubernetes import binaries, images
from ekiben.emulators.kubernetes.api import Api, Refused
from ekiben.emulators.kubernetes.layout import INGRESS_INSIDE, INGRESS_NAME, NODE, REGISTRY, Layout
from ekiben.errors import Unavailable

__all__ = ["CONFIG", "MODULE", "Paths", "Say", "ensure", "installed", "objects", "wait"]

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
POLL_S = 0.1
Object = dict[str, Any]
Say = Callable[[str], None]


def installed(at: Layout) -> bool:
    """Has the cluster of this state folder Knative Serving?"""
    return bool(_stamp(at))


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
    wanted = objects(_manifests(), references)
    stamp = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    deadline = time.monotonic() + PATIENCE_S
    if _stamp(at) != stamp:
        say("Installing Knative Serving")
        paths = Paths(api)
        first = [one for one in wanted if one["kind"] in ("Namespace", "CustomResourceDefinition")]
        for one in first:
            api.apply(paths.of(one), one)
        wait(deadline, "its kinds", lambda: all(paths.established(one) for one in first))
        for one in wanted:
            if one not in first:
                api.apply(paths.of(one), one)
        fresh = at.state / f".{MARK}.{os.getpid()}"
        fresh.write_text(stamp, encoding="ascii")
        fresh.replace(at.state / MARK)
    for name in PARTS:
        if name != "queue":
            wait(deadline, f"its {name}", lambda name=name: _available(api, name))  # type: ignore[misc]
    wait(deadline, "its admission", lambda: _takes_a_service(api))


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
    """Knative's own, from the cache where they are, so that a start asks Go for nothing."""
    import yaml

    place = binaries.cache() / f"knative-{VERSION}.json"
    if not place.exists():
        folders = binaries.sources(MODULE, *MANIFESTS)
        files = [
            path for name, below in MANIFESTS.items() for path in sorted(Path(folders[name], below).rglob("*.yaml"))
        ]
        found = [one for path in files for one in yaml.safe_load_all(path.read_text("utf-8")) if one]
        fresh = place.with_name(f".{place.name}.{os.getpid()}")
        fresh.write_text(json.dumps(found), encoding="utf-8")
        fresh.replace(place)
    return list(json.loads(place.read_text("utf-8")))


@dataclass
class Paths:
    """Where objects are in the API, by what it says of itself."""

    api: Api

    def __post_init__(self) -> None:
        self._known: dict[tuple[str, str], Object] = {}

    def of(self, one: Object) -> str:
        about, version = one["metadata"], one["apiVersion"]
        if (version, one["kind"]) not in self._known:
            told = self.api.get(self._group(version))
            self._known.update({(version, each["kind"]): each for each in told["resources"] if "/" not in each["name"]})
        kind = self._known[version, one["kind"]]
        inside = f"/namespaces/{about.get('namespace', 'default')}" if kind["namespaced"] else ""
        return f"{self._group(version)}{inside}/{kind['name']}/{about['name']}"

    def established(self, one: Object) -> bool:
        """Can objects of the kind that `one` defines be made? The API's own list of kinds has it last."""
        if one["kind"] != "CustomResourceDefinition":
            return True
        spec = one["spec"]
        served = [version["name"] for version in spec["versions"] if version.get("served")]
        try:
            return all(
                any(
                    each["kind"] == spec["names"]["kind"]
                    for each in self.api.get(f"/apis/{spec['group']}/{version}")["resources"]
                )
                for version in served
            )
        except Refused:
            return False

    @staticmethod
    def _group(version: str) -> str:
        return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _stamp(at: Layout) -> str:
    """Of what was installed; it lies beside the cluster's state, and is forgotten with it."""
    try:
        return (at.state / MARK).read_text("ascii")
    except FileNotFoundError:
        return ""


def _available(api: Api, name: str) -> bool:
    found = api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}")
    status = found.get("status", {})
    return bool(
        status.get("observedGeneration") == found["metadata"]["generation"] and status.get("readyReplicas", 0) > 0
    )


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


def wait(
    deadline: float,
    what: str,
    there: Callable[[], bool],
    *,
    patience_s: float = PATIENCE_S,
    of: str = "Knative Serving",
    remedy: str = f"See `kubectl get pods --namespace {NAMESPACE}`",
) -> None:
    """Return when something `of` what is installed is there. Raises Unavailable after the deadline, with what was waited for."""
    while not there():
        if time.monotonic() > deadline:
            why = f"{what} did not come up within {patience_s:g} s"
            raise Unavailable("kubernetes", f"install {of}", why, remedy)
        time.sleep(POLL_S)
