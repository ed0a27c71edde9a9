"""Calls of an MLflow server: version 2.0 of its REST API, as far as registered models go, with time limits and bounded retries.

https://mlflow.org/docs/latest/api_reference/rest-api.html. Standard library alone: importing MLflow takes seconds.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from ekiben.errors import AccessDenied, AlreadyExists, NotFound, ProviderError, Unavailable
from ekiben.kubernetes.calls import Address, asked
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.facts import Mlflow
from ekiben.waiting import patiently

__all__ = ["Server"]

API = "api/2.0/mlflow"
TIMEOUT_S = 15.0
ATTEMPTS, FIRST_PAUSE_S = 3, 0.2
# One that has not answered is not asked again for so long: a release makes several calls, and is held up by one.
AWAY_S = 60.0
AWAY = "Look whether it runs, and at the network between"
PAGE = 200
SAID_CHARS = 300
TOKEN = re.compile(r"[!-~]+")
# Its error codes, or the HTTP status where it gives none -> the error, and what to do.
CODES: Mapping[str, tuple[type[ProviderError], str]] = {
    "RESOURCE_ALREADY_EXISTS": (AlreadyExists, ""),
    **dict.fromkeys(("RESOURCE_DOES_NOT_EXIST", "404"), (NotFound, "Look at ekiben:mlflowUri, and what lies there")),
    **dict.fromkeys(("UNAUTHENTICATED", "401"), (AccessDenied, "Look at what the Secret of ekiben:mlflowSecret has")),
    **dict.fromkeys(("PERMISSION_DENIED", "403"), (AccessDenied, "Give who is in its Secret, or whoever calls, this right")),
    **dict.fromkeys(("REQUEST_LIMIT_EXCEEDED", "TEMPORARILY_UNAVAILABLE", "429"), (Unavailable, "Repeat it later")),
}  # fmt: skip

_away: dict[str, tuple[float, str]] = {}


class Server:
    """The server that the facts name. Making one calls nothing; its Secret is read on the first call, and kept in memory alone."""

    def __init__(self, cluster: Cluster, facts: Mlflow) -> None:
        self._cluster, self.facts = cluster, facts
        self._address = Address(url=facts.url, service=facts.service)
        self._shown: Mapping[str, str] | None = None

    def model_names(self, start: str, to: str) -> list[str]:
        """The registered models whose names begin so. `to` completes "cannot ..." in errors, here and below."""
        found = self._pages("registered-models", f"name LIKE '{start}%'", to)
        return [str(one["name"]) for one in found if str(one["name"]).startswith(start)]

    def make_model(self, name: str, description: str, to: str) -> None:
        """Silent where it is there."""
        with suppress(AlreadyExists):
            self._call("POST", "registered-models/create", {"name": name, "description": description}, to)

    def delete_model(self, name: str, to: str) -> None:
        """With all its versions; silent where it is not there."""
        with suppress(NotFound):
            self._call("DELETE", "registered-models/delete", {"name": name}, to)

    def versions(self, where: str, to: str) -> Iterator[dict[str, Any]]:
        """The model versions of which a filter is true, with "tags" as a dict."""
        for one in self._pages("model-versions", where, to):
            yield {**one, "tags": {tag["key"]: tag.get("value", "") for tag in one.get("tags") or ()}}

    def make_version(self, name: str, source: str, description: str, tags: Mapping[str, str], to: str) -> None:
        told = [{"key": key, "value": value} for key, value in tags.items()]
        body = {"name": name, "source": source, "description": description, "tags": told}
        self._call("POST", "model-versions/create", body, to)

    def delete_version(self, name: str, number: str, to: str) -> None:
        """Silent where it is not there."""
        with suppress(NotFound):
            self._call("DELETE", "model-versions/delete", {"name": name, "version": number}, to)

    def tag(self, name: str, number: str, key: str, value: str, to: str) -> None:
        """Set a tag of a version, over what it has."""
        body = {"name": name, "version": number, "key": key, "value": value}
        self._call("POST", "model-versions/set-tag", body, to)

    def aliases(self, name: str, to: str) -> dict[str, str]:
        """Alias -> the number of the version that it names."""
        told = self._call("GET", "registered-models/get", {}, to, query={"name": name})["registered_model"]
        return {str(one["alias"]): str(one["version"]) for one in told.get("aliases") or ()}

    def point(self, name: str, alias: str, number: str, to: str) -> None:
        """Have an alias name a version, and no other one."""
        self._call("POST", "registered-models/alias", {"name": name, "alias": alias, "version": number}, to)

    def _pages(self, noun: str, where: str, to: str) -> Iterator[dict[str, Any]]:
        query = {"filter": where, "max_results": str(PAGE)}
        while True:
            page = self._call("GET", f"{noun}/search", {}, to, query=query)
            yield from page.get(noun.replace("-", "_")) or ()
            if not (following := page.get("next_page_token")):
                return
            query = {**query, "page_token": str(following)}

    def _call(
        self, method: str, path: str, body: Mapping[str, Any], to: str, *, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """What it answers. All calls may be repeated: what is made twice is found and mended (`mirror.Mirror`)."""
        if (until := _away.get(self.facts.url, (0.0, "")))[0] > time.monotonic():
            raise self._error(Unavailable, to, until[1], AWAY)
        data = json.dumps(body, allow_nan=False).encode() if body else b""

        def answered() -> dict[str, Any]:
            try:
                answer = asked(
                    self._cluster, self._address, method, f"{API}/{path}", to, body=data, headers=self._headers(to),
                    timeout_s=TIMEOUT_S, query=query,
                )  # fmt: skip
            except Unavailable as problem:
                raise self._error(Unavailable, to, problem.why, AWAY) from problem
            if answer.status < 300 and isinstance(told := _parsed(answer.body), dict):
                return told
            raise self._refusal(answer.status, answer.body, to)

        try:
            return patiently(answered, lambda error: isinstance(error, Unavailable), ATTEMPTS, FIRST_PAUSE_S)
        except Unavailable as error:
            _away[self.facts.url] = (time.monotonic() + AWAY_S, error.why)
            raise

    def _refusal(self, status: int, body: bytes, to: str) -> ProviderError:
        told = _parsed(body)
        told = told if isinstance(told, dict) else {}
        if status < 400:
            why, kind, remedy = f"it answers HTTP {status} and no JSON", ProviderError, "Look at ekiben:mlflowUri"
            return self._error(kind, to, why, remedy)
        said = re.sub(r"\s+", " ", str(told.get("message") or "")).strip().rstrip(".")[:SAID_CHARS]
        kind, remedy = (
            CODES.get(str(told.get("error_code"))) or CODES.get(str(status))
            or (Unavailable if status >= 500 else ProviderError, "")
        )  # fmt: skip
        return self._error(kind, to, f"it answers HTTP {status}" + (f" ({said})" if said else ""), remedy)

    def _error(self, kind: type[ProviderError], to: str, why: str, remedy: str) -> ProviderError:
        return kind("kubernetes", f"{to} at {self.facts.url}", why, remedy)

    def _headers(self, to: str) -> Mapping[str, str]:
        """Who asks. The server that a stack runs asks nobody: only the stack's pods, and the cluster's API, get to it."""
        if self._shown is None:
            self._shown = self._login(to) if self.facts.secret else {}
        return self._shown

    def _login(self, to: str) -> Mapping[str, str]:
        name = self.facts.secret
        remedy = (
            f"Make it: kubectl create secret generic {name} -n {self._cluster.namespace} --from-literal=token=TOKEN"
        )
        try:
            held = self._cluster.get("Secret", name, to).get("data") or {}
        except NotFound as error:
            raise self._error(NotFound, to, f"there is no Secret {name!r} in the namespace", remedy) from error
        told = {key: base64.b64decode(value).decode("utf-8", "replace").strip() for key, value in held.items()}
        if TOKEN.fullmatch(told.get("token", "")):
            return {"authorization": f"Bearer {told['token']}"}
        if {"username", "password"} <= told.keys():
            pair = f"{told['username']}:{told['password']}"
            return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        why = f"the Secret {name!r} has neither a token that a header takes nor a username and a password"
        raise self._error(NotFound, to, why, remedy)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except ValueError:
        return None
