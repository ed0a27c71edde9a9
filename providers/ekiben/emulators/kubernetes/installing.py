"""What a cluster has beside Kubernetes: objects of others' manifests, applied once, their kinds before them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ekiben.emulators.kubernetes import binaries
from ekiben.emulators.kubernetes.api import Api, Refused
from ekiben.errors import Unavailable

__all__ = ["Object", "Paths", "Patience", "Say", "apply", "available", "manifests", "stamp"]

POLL_S = 0.1
Object = dict[str, Any]
Say = Callable[[str], None]


class Patience:
    """With all that is waited for `of` what is installed, from now on."""

    def __init__(self, of: str, remedy: str, limit_s: float) -> None:
        self.of, self.remedy, self.limit_s = of, remedy, limit_s
        self._deadline = time.monotonic() + limit_s

    def until(self, what: str, there: Callable[[], bool]) -> None:
        """Return when it is there. Raises Unavailable when time is up, with what was waited for."""
        while not there():
            if time.monotonic() > self._deadline:
                why = f"{what} did not come up within {self.limit_s:g} s"
                raise Unavailable("kubernetes", f"install {self.of}", why, self.remedy)
            time.sleep(POLL_S)


def manifests(name: str, make: Callable[[], Iterable[Object]]) -> list[Object]:
    """What `make` makes of modules' folders; from the cache where it is, so that a start asks Go for nothing."""
    place = binaries.cache() / f"{name}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / "lock").open("a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            fresh = place.with_name(f".{place.name}.{os.getpid()}")
            fresh.write_text(json.dumps(list(make())), encoding="utf-8")
            fresh.replace(place)
    return list(json.loads(place.read_text("utf-8")))


def apply(api: Api, wanted: Iterable[Object], mark: Path, patience: Patience, say: Say) -> None:
    """Make these, or bring what is there to them; nothing where `mark` says that they are there as they are wanted."""
    wanted = list(wanted)
    fresh = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    if stamp(mark) == fresh:
        return
    say(f"Installing {patience.of}")
    paths = Paths(api)
    first = [one for one in wanted if one["kind"] in ("Namespace", "CustomResourceDefinition")]
    for one in first:
        api.apply(paths.of(one), one)
    patience.until("its kinds", lambda: all(paths.established(one) for one in first))
    for one in wanted:
        if one not in first:
            api.apply(paths.of(one), one)
    written = mark.with_name(f".{mark.name}.{os.getpid()}")
    written.write_text(fresh, encoding="ascii")
    written.replace(mark)


def stamp(mark: Path) -> str:
    """Of what was applied last; empty where nothing was. It lies beside the cluster's state, and is forgotten with it."""
    try:
        return mark.read_text("ascii")
    except FileNotFoundError:
        return ""


def available(api: Api, namespace: str, deployment: str) -> bool:
    """Does it run as it was asked to?"""
    found = api.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}")
    status = found.get("status", {})
    return bool(
        status.get("observedGeneration") == found["metadata"]["generation"] and status.get("readyReplicas", 0) > 0
    )


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
