"""Functions on Kubernetes: called through their Service, and told of by what their pod leaves in the store."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from ekiben import runtime
from ekiben.errors import AccessDenied, FunctionFailed, NotFound, SpecError, Unavailable
from ekiben.invocations import as_json
from ekiben.kubernetes.calls import Address, asked, headers_of
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.deliveries import FOLDERS, name_of
from ekiben.kubernetes.facts import PORT, TOKEN, FunctionFacts, facts_of
from ekiben.kubernetes.storage import open_storage, secret_of
from ekiben.records import Part, Platform

__all__ = ["Function"]

STATES = ("waiting", "running", "done", "dead")
# One call at a time: another one's time, and then its own.
SLACK_S = 30.0
READERS = 16
# The lines of a function's log begin with their time and delivery.
HEAD = re.compile(r"\S+ \S+ ?")
FIELDS = ("id", "event", "state", "attempts", "error", "created_at", "ended_at", "log_uri")


class Function(runtime.Function):
    """One function."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        self._facts = facts_of(part, FunctionFacts)
        self._cluster = Cluster(self._facts.namespace, self._facts.context)
        self._storage = open_storage(
            self._facts.deliveries_uri, self._facts.namespace, self._facts.s3, self._facts.context
        )

    def call(self, data: Mapping[str, Any]) -> Any:
        name, operation = self.part.name, f"call the function {self.part.name!r}"
        if not any(one.get("type") == "Http" for one in self._facts.on):
            raise SpecError(
                f"The function {name!r} is not called: its spec has no Http(). Publish an event that it waits for."
            )
        body = as_json(dict(data), f"What was given to the function {name!r}").encode()
        token = secret_of(self._cluster, self._facts.token_secret, TOKEN, operation)
        address = Address(url=self._facts.url, service=f"{self._facts.service}:{PORT}")
        timeout_s = 2 * self._facts.timeout_s + SLACK_S
        answer = asked(
            self._cluster, address, "POST", "call", operation, body=body, headers=headers_of(token), timeout_s=timeout_s
        )
        try:
            told = json.loads(answer.body)
        except ValueError:
            told = {}
        if answer.status == 200 and "result" in told:
            return told["result"]
        if answer.status == 500 and "error" in told:
            raise FunctionFailed(
                f"kubernetes: the function {name!r} failed: {told['error']}.",
                log_uri=self._log_uri,
                tail=str(told.get("tail", "")),
            )
        why = str(told.get("error") or told.get("message") or f"it answers HTTP {answer.status}").rstrip(".")
        if answer.status in (401, 403):
            raise AccessDenied("kubernetes", operation, why, "Mend it with `ekiben up`")
        raise Unavailable("kubernetes", operation, why, "Look at its pod, and repeat it")

    def deliveries(self, state: str = "") -> list[dict[str, Any]]:
        if state and state not in STATES:
            raise SpecError(f"There is no state {state!r} of a delivery; there are: {', '.join(STATES)}.")
        wanted = {"done": ("done",), "dead": ("dead",), "": FOLDERS}.get(state, ("open",))
        again = {one.key.rpartition("/")[2] for one in self._storage.list("again/")}
        keys = [one.key for folder in wanted for one in self._storage.list(f"{folder}/")]
        with ThreadPoolExecutor(READERS) as pool:
            found = {one["id"]: one for one in pool.map(self._read, keys) if one}
        for one in found.values():
            if one["state"] == "dead" and name_of(one["id"]) in again:
                one["state"] = "waiting"
        shown = [
            {key: one.get(key, "") for key in FIELDS} for one in found.values() if not state or one["state"] == state
        ]
        return sorted(shown, key=lambda one: str(one["created_at"]), reverse=True)

    def replay(self, delivery: str) -> None:
        """See `runtime.Function`. Its pod does so some seconds later."""
        name = name_of(delivery)
        for folder in FOLDERS:
            if (one := self._read(f"{folder}/{name}.json")) is not None:
                if one["state"] == "dead":
                    self._storage.put(f"again/{name}", b"")
                return
        raise NotFound("kubernetes", f"replay {delivery!r}", f"the function {self.part.name!r} has no such delivery")

    def logs(self) -> Iterator[str]:
        with suppress(NotFound):
            for line in self._storage.get("log.txt").decode("utf-8", "replace").splitlines():
                yield HEAD.sub("", line, count=1)

    def _read(self, key: str) -> dict[str, Any] | None:
        """A delivery; None where it has moved on meanwhile."""
        try:
            return dict(json.loads(self._storage.get(key)))
        except NotFound:
            return None

    @property
    def _log_uri(self) -> str:
        return self._storage.uri("log.txt")
