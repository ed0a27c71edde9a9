"""HTTPRoutes of the Gateway API, as far as the traffic of an endpoint needs them: hosts, prefixes, headers and weights."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ekiben.emulators.kubernetes.ingress.following import Object

__all__ = ["CONTROLLER", "GATEWAY", "PATH", "as_ingress", "attached", "wanted"]

PATH = "apis/gateway.networking.k8s.io/v1"
# The Gateway that this ingress is, as a route's parentRefs name it, and what it is called in a GatewayClass and in statuses.
GATEWAY, CONTROLLER = "ekiben-gateway/ingress", "ekiben.dev/ingress"


def attached(route: Object) -> list[Object]:
    """The parentRefs that are this Gateway; where there are none the route belongs to another one."""
    own = route["metadata"]["namespace"]
    parents = (route.get("spec") or {}).get("parentRefs") or ()
    return [one for one in parents if f"{one.get('namespace', own)}/{one.get('name')}" == GATEWAY]


def wanted(route: Object, why_not: str) -> Object:
    """The status that this route ought to have. A condition that does not change keeps its time; what others say stays."""
    parents = (route.get("status") or {}).get("parents") or []
    theirs = [one for one in parents if one.get("controllerName") != CONTROLLER]
    said = {
        condition["type"]: condition
        for one in parents
        if one not in theirs
        for condition in one.get("conditions") or ()
    }
    conditions = []
    for kind, wrong in (("Accepted", why_not), ("ResolvedRefs", "")):
        state = "False" if wrong else "True"
        old = said.get(kind, {})
        then = old.get("lastTransitionTime") if old.get("status") == state else None
        conditions.append({
            "type": kind, "status": state, "reason": "UnsupportedValue" if wrong else kind, "message": wrong,
            "observedGeneration": route["metadata"]["generation"],
            "lastTransitionTime": then or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        })  # fmt: skip
    ours = [{"parentRef": ref, "controllerName": CONTROLLER, "conditions": conditions} for ref in attached(route)]
    return {"parents": [*theirs, *ours]}


def as_ingress(route: Object) -> Object:
    """The KIngress that says the same. Raises ValueError for what it cannot say, and KeyError."""
    about, spec = route["metadata"], route["spec"]
    everything: Object = {}
    paths = [
        {"path": _prefix(match), "headers": _headers(match), "splits": _splits(rule, about["namespace"])}
        for rule in spec.get("rules", ())
        for match in rule.get("matches") or (everything,)
    ]
    return {"metadata": about, "spec": {"rules": [{"hosts": spec.get("hostnames", ()), "http": {"paths": paths}}]}}


def _splits(rule: Object, namespace: str) -> list[dict[str, Any]]:
    """Those that get any: https://gateway-api.sigs.k8s.io/reference/spec/#httpbackendref"""
    if refused := [name for name in ("filters", "timeouts", "retry", "sessionPersistence") if rule.get(name)]:
        raise ValueError(f"a rule has {refused[0]}, which this ingress does not follow")
    return [
        {
            "serviceNamespace": one.get("namespace", namespace), "serviceName": one["name"], "servicePort": one["port"],
            "percent": one.get("weight", 1),
        }
        for one in rule.get("backendRefs") or ()
        if one.get("weight", 1)
    ]  # fmt: skip


def _prefix(match: Object) -> str:
    path = match.get("path") or {}
    if path.get("type", "PathPrefix") != "PathPrefix" or match.get("method") or match.get("queryParams"):
        raise ValueError("a match asks for more than a path's prefix and headers, which this ingress does not follow")
    return str(path.get("value") or "/")


def _headers(match: Object) -> dict[str, Any]:
    found = match.get("headers") or ()
    if any(one.get("type", "Exact") != "Exact" for one in found):
        raise ValueError("a header is matched otherwise than exactly, which this ingress does not follow")
    return {one["name"]: {"exact": one["value"]} for one in found}
