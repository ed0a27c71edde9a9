"""The Gateway API in the cluster: its kinds from its own module, and a Gateway that is the cluster's ingress."""

from __future__ import annotations

from pathlib import Path

from ekiben.emulators.kubernetes import binaries, installing, knative
from ekiben.emulators.kubernetes.api import Api
from ekiben.emulators.kubernetes.ingress.gateway import CONTROLLER, GATEWAY
from ekiben.emulators.kubernetes.installing import Object, Paths, Patience, Say

__all__ = ["CONFIG", "MODULE", "ensure"]

# https://gateway-api.sigs.k8s.io
MODULE = binaries.Module(path="sigs.k8s.io/gateway-api", version="v1.5.0", packages={})
MANIFESTS = "config/crd/standard"
KINDS = ("gatewayclasses", "gateways", "httproutes")
# What a stack's config says to use it, beside what it says of an ingress.
CONFIG = {key: value for key, value in knative.CONFIG.items() if key != "ekiben:knative"} | {"ekiben:gateway": GATEWAY}
CLASS = "ekiben"
PATIENCE_S = 120.0


def ensure(kubeconfig: Path, say: Say = lambda line: None) -> None:
    """Have the kinds and the Gateway in the cluster; returns when routes are taken. Repeating is safe.

    Raises what `binaries.sources` does, and Unavailable where the cluster does not come to know them.
    """
    api = Api(kubeconfig)
    paths, patience = Paths(api), Patience("the Gateway API", "Repeat it", PATIENCE_S)
    kinds = installing.manifests(f"gateway-{MODULE.version}", _manifests)
    if not all(paths.established(one) for one in kinds):
        say("Installing the Gateway API")
        for one in kinds:
            api.apply(paths.of(one), one)
        patience.until("its kinds", lambda: all(paths.established(one) for one in kinds))
    for one in _gateway():
        api.apply(paths.of(one), one)


def _gateway() -> list[Object]:
    namespace, _, name = GATEWAY.partition("/")
    labels = {"app.kubernetes.io/managed-by": "ekiben"}
    version = "gateway.networking.k8s.io/v1"
    listener = {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}},
        {
            "apiVersion": version, "kind": "GatewayClass", "metadata": {"name": CLASS, "labels": labels},
            "spec": {"controllerName": CONTROLLER},
        },
        {
            "apiVersion": version, "kind": "Gateway", "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"gatewayClassName": CLASS, "listeners": [listener]},
        },
    ]  # fmt: skip


def _manifests() -> list[Object]:
    """The kinds that a route needs."""
    import yaml

    folder = Path(binaries.sources(MODULE, MODULE.path)[MODULE.path], MANIFESTS)
    names = [f"gateway.networking.k8s.io_{kind}.yaml" for kind in KINDS]
    return [yaml.safe_load((folder / name).read_text("utf-8")) for name in names]
