"""What the ingress says of a KIngress or an HTTPRoute: that its generation is served, and where; or why it is not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime

import aiohttp

from ekiben.emulators.kubernetes.ingress import gateway
from ekiben.emulators.kubernetes.ingress.following import Object
from ekiben.emulators.kubernetes.ingress.routes import HTTPROUTE

__all__ = ["PATH", "Teller", "wanted"]

PATH = "apis/networking.internal.knative.dev/v1alpha1"
CONDITIONS = ("LoadBalancerReady", "NetworkConfigured", "Ready")
PATIENCE_S = 30.0
PAUSE_S = 0.5

logger = logging.getLogger(__name__)


def wanted(ingress: Object, why_not: str, public: str, private: str) -> Object:
    """The status that this object ought to have. A condition that does not change keeps its time."""
    before = ingress.get("status") or {}
    said = {one.get("type"): one for one in before.get("conditions") or ()}
    conditions = []
    for kind in CONDITIONS:
        wrong = bool(why_not) and kind != "LoadBalancerReady"
        fresh = {"type": kind, "status": "False" if wrong else "True"}
        if wrong:
            fresh |= {"reason": "Invalid", "message": why_not}
        old = said.get(kind, {})
        then = old.get("lastTransitionTime") if old.get("status") == fresh["status"] else None
        conditions.append({**fresh, "lastTransitionTime": then or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"})
    return {
        **before,
        "observedGeneration": ingress["metadata"]["generation"],
        "conditions": conditions,
        "publicLoadBalancer": {"ingress": [{"domainInternal": public}]},
        "privateLoadBalancer": {"ingress": [{"domainInternal": private}]},
    }


class Teller:
    """Writes the statuses that are not yet as they ought to be, one after the other; `look()` after each change of routes."""

    def __init__(self, api: aiohttp.ClientSession, public: str, private: str) -> None:
        self._api = api
        self._names = (public, private)
        self._served: dict[str, Object] = {}
        self._wrong: Mapping[str, str] = {}
        self._look = asyncio.Event()

    def look(self, served: Mapping[str, Object], wrong: Mapping[str, str]) -> None:
        """These objects are what the routes are made of now; `wrong` says why some of them make none."""
        self._served, self._wrong = dict(served), wrong
        self._look.set()

    async def run(self) -> None:
        """Write, for ever. What cannot be written now is tried again."""
        while True:
            await self._look.wait()
            self._look.clear()
            for key, one in list(self._served.items()):
                why_not = self._wrong.get(key, "")
                if key.startswith(HTTPROUTE):
                    place, status = f"{gateway.PATH}/{{}}/httproutes", gateway.wanted(one, why_not)
                else:
                    place, status = f"{PATH}/{{}}/ingresses", wanted(one, why_not, *self._names)
                if status != one.get("status") and not await self._write(place, one, status):
                    self._look.set()
            if self._look.is_set():
                await asyncio.sleep(PAUSE_S)

    async def _write(self, place: str, ingress: Object, status: Object) -> bool:
        """True when it is written, or need not be: whoever changed the object meanwhile is followed anyway."""
        about = ingress["metadata"]
        path = f"{place.format('namespaces/' + about['namespace'])}/{about['name']}/status"
        body = {"metadata": {"resourceVersion": about["resourceVersion"]}, "status": status}
        try:
            async with self._api.patch(
                path, json=body, headers={"Content-Type": "application/merge-patch+json"},
                timeout=aiohttp.ClientTimeout(total=PATIENCE_S),
            ) as response:  # fmt: skip
                if response.status in (404, 409):
                    return True
                response.raise_for_status()
                ingress["status"] = status
                return True
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.warning("cannot write the status of %s/%s: %r", about["namespace"], about["name"], error)
            return False
