"""Where requests go: the table that KIngress objects and HTTPRoutes make, and what of it one request meets."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from ekiben.emulators.kubernetes.ingress import gateway
from ekiben.emulators.kubernetes.ingress.following import Object

__all__ = ["CLASS", "CLASS_ANNOTATIONS", "HTTPROUTE", "Path", "Split", "Table", "ours"]

CLASS = "ingress.ekiben.dev"
CLASS_ANNOTATIONS = ("networking.knative.dev/ingress.class", "networking.knative.dev/ingress-class")
CLUSTER_LOCAL = "ClusterLocal"
# Before the key of an HTTPRoute, where it is among KIngresses.
HTTPROUTE = "HTTPRoute "
Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Split:
    """A share of the traffic: the Service that gets it, by "namespace/name" and port, and what is added to its requests."""

    service: str
    port: int | str
    percent: int
    headers: Headers


@dataclass(frozen=True, slots=True)
class Path:
    """A literal prefix of paths, the headers that a request must have, and the splits that share what meets both."""

    prefix: str
    match: Headers
    splits: tuple[Split, ...]
    shares: tuple[int, ...]
    headers: Headers
    rewrite_host: str

    def choose(self) -> Split | None:
        """One of the splits, by its weight; None where nothing has any."""
        if not self.shares or not self.shares[-1]:
            return None
        return random.choices(self.splits, cum_weights=self.shares)[0]  # noqa: S311 - which revision answers is no secret


@dataclass(slots=True)
class Table:
    """The paths of each host: those that all may reach, and all, for callers inside the cluster."""

    public: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    private: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)  # the ingresses that make no routes, and why

    def find(self, host: str, path: str, headers: Mapping[str, str], *, inside: bool) -> Path | None:
        """What a request meets: the most headers first, then the longest prefix. None: no such host, or no such path."""
        name = host.rsplit(":", 1)[0].rstrip(".").lower() if not host.endswith("]") else host
        for each in (self.private if inside else self.public).get(name, ()):
            if path.startswith(each.prefix) and all(headers.get(key) == value for key, value in each.match):
                return each
        return None

    @classmethod
    def of(cls, ingresses: Mapping[str, Object]) -> Table:
        """The table of these objects, HTTPRoutes by keys of their own. Where two ask for one host, the older one has it."""
        table = cls()
        for key in sorted(ingresses, key=lambda key: (ingresses[key]["metadata"].get("creationTimestamp", ""), key)):
            try:
                one = ingresses[key]
                table._add(gateway.as_ingress(one) if key.startswith(HTTPROUTE) else one)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                table.wrong[key] = f"it cannot be read: {error!r}"
        return table

    def _add(self, ingress: Object) -> None:
        rules = [
            (host.lower(), rule.get("visibility"), _paths(rule["http"]["paths"]))
            for rule in ingress["spec"].get("rules", ())
            for host in rule.get("hosts", ())
        ]
        for host, visibility, paths in rules:
            self.private.setdefault(host, paths)
            if visibility != CLUSTER_LOCAL:
                self.public.setdefault(host, paths)


def ours(ingress: Object, ingress_class: str) -> bool:
    """True where the object's class is this one: others belong to other ingresses."""
    annotations = ingress["metadata"].get("annotations") or {}
    return ingress_class in (annotations.get(name) for name in CLASS_ANNOTATIONS)


def _paths(paths: Iterable[Object]) -> tuple[Path, ...]:
    made = [_path(path) for path in paths]
    return tuple(sorted(made, key=lambda path: (-len(path.match), -len(path.prefix))))


def _path(path: Object) -> Path:
    given = path["splits"]
    splits = tuple(
        Split(
            f"{one['serviceNamespace']}/{one['serviceName']}",
            one["servicePort"],
            int(one.get("percent", 0)) if len(given) > 1 else 100,
            _headers(one),
        )
        for one in given
    )
    return Path(
        path.get("path") or "/",
        tuple((name, str(match["exact"])) for name, match in (path.get("headers") or {}).items()),
        splits,
        tuple(accumulate(split.percent for split in splits)),
        _headers(path),
        path.get("rewriteHost", ""),
    )


def _headers(holder: Object) -> Headers:
    return tuple((name, str(value)) for name, value in (holder.get("appendHeaders") or {}).items())
