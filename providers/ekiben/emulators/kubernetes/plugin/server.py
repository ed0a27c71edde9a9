"""Calls of the API server: any kind that it has, found by discovery; time limits, bounded retries, errors with their causes.

Every call here may be repeated: reads, server-side apply, and deletion.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml
from lightkube.config.client_adapter import Client, ConnectionParams
from lightkube.config.kubeconfig import KubeConfig
from lightkube.core.exceptions import ConfigError

from ekiben.errors import NotFound, ProviderError, SpecError
from ekiben.kubernetes.errors import error_of, unanswered
from ekiben.waiting import patiently, retry_after_s

__all__ = ["Kind", "Refused", "Server", "connected"]

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5.0, 60.0
ATTEMPTS, FIRST_PAUSE_S = 6, 0.2
PAGE = 500
# A type that the schema does not have is an error of the server to the server, and one of the program to us.
WRONG = re.compile(r"failed to create typed patch object \(.*?\): (.*)", re.DOTALL)
# What it was given instead, in Go's words, to the end of the line: it may be what is in a Secret.
VALUE = re.compile(r"&value\.valueUnstructured\{Value:.*")
EARLY = re.compile(r"error looking up service account .* not found")


@dataclass(frozen=True)
class Kind:
    """A kind that the server has: `api` is v1 or apps/v1; `plural` is its place in paths."""

    api: str
    name: str
    plural: str
    namespaced: bool

    def path(self, namespace: str, name: str = "") -> str:
        root = f"api/{self.api}" if "/" not in self.api else f"apis/{self.api}"
        within = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{root}{within}/{self.plural}" + (f"/{name}" if name else "")


class Refused(Exception):
    """The server's own words for a refusal: HTTP status, reason, message, and causes as (reason, field, message)."""

    def __init__(self, status: int, body: bytes, retry_after_s: float = 0.0) -> None:
        try:
            told = json.loads(body)
        except ValueError:
            told = {}
        told = told if isinstance(told, dict) else {}
        self.status, self.body, self.retry_after_s = status, body, retry_after_s
        self.reason, self.message = str(told.get("reason", "")), str(told.get("message", ""))
        causes = (told.get("details") or {}).get("causes") or ()
        self.causes = [
            (str(one.get("reason", "")), str(one.get("field", "")), str(one.get("message", ""))) for one in causes
        ]
        super().__init__(self.message or f"the API server answers {status}")

    @property
    def wrong(self) -> str:
        """What is wrong with what was applied, where the server says so before it looks at any object: as an error of its own."""
        found = WRONG.search(self.message)
        lines = found[1].removeprefix("errors:").splitlines() if found else ()
        return "; ".join(
            VALUE.sub("a value of another type", line.strip().lstrip(".")) for line in lines if line.strip()
        )

    @property
    def passing(self) -> bool:
        """May the same call succeed a moment later? Also where somebody changed the object in the middle of it, but not where
        fields are another's, and where what was made just now is not known everywhere: a definition, an account of a namespace."""
        if self.status >= 500 or self.status == 429:
            return not self.wrong
        if self.status == 409:
            return self.reason == "Conflict" and not self.causes
        return (self.status == 404 and not self.reason) or (self.status == 403 and bool(EARLY.search(self.message)))

    def error(self, operation: str) -> ProviderError:
        return error_of(self.status, self.body, operation)


class Server:
    """The API server of a kubeconfig's context. Raises Refused for its refusals, Unavailable where nothing answers."""

    def __init__(self, client: httpx2.Client, address: str, namespace: str) -> None:
        self.address, self.namespace = address, namespace
        self._client = client
        self._kinds: dict[str, dict[str, Kind]] = {}
        self._lock = threading.Lock()

    def kind(self, api: str, name: str) -> Kind | None:
        """The kind, None where the server does not have it. What it has not is asked for anew each time: it may come."""
        with self._lock:
            known = self._kinds.get(api, {}).get(name)
            if known is None:
                self._kinds[api] = self._discovered(api)
                known = self._kinds[api].get(name)
            return known

    def _discovered(self, api: str) -> dict[str, Kind]:
        root = f"api/{api}" if "/" not in api else f"apis/{api}"
        try:
            told = self.call("GET", root, f"look for kinds of {api}", absent=True)
        except Refused as refused:
            if refused.status == 404:
                return {}
            raise refused.error(f"look for kinds of {api}") from None
        return {
            str(one["kind"]): Kind(api, str(one["kind"]), str(one["name"]), bool(one["namespaced"]))
            for one in told.get("resources", ())
            if "/" not in str(one["name"])
        }  # fmt: skip

    def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        """The object, None where there is none."""
        operation = f"read {kind.name} {name}"
        try:
            return self.call("GET", kind.path(namespace, name), operation)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise refused.error(operation) from None

    def list(self, kind: Kind, namespace: str, *, labels: str = "", fields: str = "") -> Iterator[dict[str, Any]]:
        """The objects with these labels and fields, over all pages."""
        asked = {"limit": str(PAGE), "labelSelector": labels, "fieldSelector": fields}
        query = {name: value for name, value in asked.items() if value}
        operation = f"list the objects of kind {kind.name}"
        while True:
            try:
                page = self.call("GET", kind.path(namespace), operation, query=query)
            except Refused as refused:
                raise refused.error(operation) from None
            yield from page.get("items") or ()
            if not (following := (page.get("metadata") or {}).get("continue")):
                return
            query = {**query, "continue": str(following)}

    def apply(
        self, kind: Kind, thing: Mapping[str, Any], *, manager: str, force: bool = False, dry_run: bool = False
    ) -> dict[str, Any]:
        """The object as it is after `manager` has said that `thing` is what it wants. Raises Refused, also for unknown fields."""
        query = {"fieldManager": manager, "fieldValidation": "Strict", "force": "true" if force else "false"}
        if dry_run:
            query["dryRun"] = "All"
        metadata = thing["metadata"]
        path = kind.path(str(metadata.get("namespace", "")), str(metadata["name"]))
        return self.call(
            "PATCH",
            path,
            f"apply {kind.name} {metadata['name']}",
            thing,
            query=query,
            content="application/apply-patch+yaml",
        )

    def delete(self, kind: Kind, namespace: str, name: str, *, propagation: str) -> None:
        """Ask for its deletion; silent where there is none."""
        operation = f"delete {kind.name} {name}"
        try:
            self.call("DELETE", kind.path(namespace, name), operation, {"propagationPolicy": propagation})
        except Refused as refused:
            if refused.status != 404:
                raise refused.error(operation) from None

    def call(
        self, method: str, path: str, operation: str, body: Any = None, *,
        query: Mapping[str, str] | None = None, content: str = "application/json", absent: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """What the server answers. It is asked again, a few times, where it is overloaded, errs, or somebody was quicker.

        absent: a path that it does not have is an answer, and not one that it will have in a moment.
        """
        data = json.dumps(body, allow_nan=False).encode() if body is not None else None
        headers = {"accept": "application/json", "content-type": content, "user-agent": "ekiben"}

        def told() -> dict[str, Any]:
            answer = self._client.request(method, path, params=dict(query or {}), headers=headers, content=data)
            if answer.status_code >= 300:
                asked_s = retry_after_s(answer.headers.get("retry-after", ""))
                raise Refused(answer.status_code, answer.content, asked_s)
            return dict(answer.json())

        def again(error: Exception) -> bool:
            if not isinstance(error, Refused):
                return isinstance(error, httpx2.HTTPError)
            return error.passing and not (absent and error.status == 404)

        try:
            return patiently(told, again, ATTEMPTS, FIRST_PAUSE_S)
        except httpx2.HTTPError as error:
            raise unanswered(error, operation) from error


def connected(kubeconfig: str, context: str = "", cluster: str = "", namespace: str = "") -> Server:
    """The server that a kubeconfig (its text, or the path of its file) names. Asks nothing yet. Raises SpecError."""
    where = "its text" if "\n" in kubeconfig or kubeconfig.lstrip().startswith("{") else kubeconfig
    try:
        if where == "its text":
            config = KubeConfig.from_dict(yaml.safe_load(kubeconfig))
        else:
            config = KubeConfig.from_file(Path(kubeconfig).expanduser())
        chosen = config.get(context or None)
        assert chosen is not None, "get raises where there is no context"
        if cluster:
            chosen = chosen._replace(cluster=config.clusters[cluster])
        limits = httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=None)
        client = Client(chosen, ConnectionParams(timeout=limits))
    except (ConfigError, NotFound, KeyError, TypeError, AttributeError, OSError, ValueError, yaml.YAMLError) as error:
        # The text may hold a key: of what is wrong with it, only the kind is told.
        why = type(error).__name__ if where == "its text" else str(error)
        raise SpecError(
            f"kubernetes: cannot use the kubeconfig ({where}): {why}. Look at it, and at its context."
        ) from error
    return Server(client, chosen.cluster.server, namespace or chosen.namespace)
