"""A Lambda function at run time: its settings changed and published without races, and called."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from ekiben.aws.client import Cloud
from ekiben.aws.waiting import looks
from ekiben.errors import AlreadyExists, NoCapacity, NotFound, PreconditionFailed, ProviderError, SpecError, Unavailable

__all__ = ["Answer", "Lambda", "said_of"]

# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
REQUEST_BYTES, EVENT_BYTES = 6 * 2**20, 2**20
CHANGE_TIMEOUT_S = 600.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 5.0

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one call of a function has come to. failed: the function raised, ended or ran out of time; tail: the end of its log."""

    payload: bytes
    version: str
    request_id: str
    failed: bool
    tail: str

    @property
    def cold(self) -> bool:
        """Did it wait for a new instance?"""
        return "Init Duration" in self.tail


class Lambda:
    """One function of a region."""

    def __init__(self, cloud: Cloud, name: str) -> None:
        self._cloud, self.name = cloud, name

    def invoke(self, operation: str, event: Mapping[str, Any], qualifier: str = "") -> Answer:
        """Call it and wait. Raises SpecError for an event that is larger than Lambda takes."""
        said = self._cloud.call_once(
            "lambda", "invoke", operation,
            FunctionName=self.name, Payload=_body(operation, event, REQUEST_BYTES), LogType="Tail",
            **({"Qualifier": qualifier} if qualifier else {}),
        )  # fmt: skip
        return Answer(
            payload=said["Payload"].read(), version=str(said.get("ExecutedVersion", "")),
            request_id=str(said.get("ResponseMetadata", {}).get("RequestId", "")), failed="FunctionError" in said,
            tail=base64.b64decode(said.get("LogResult", "")).decode("utf-8", "replace"),
        )  # fmt: skip

    def send(self, operation: str, event: Mapping[str, Any]) -> None:
        """Have it called, without waiting. Raises SpecError for an event that is larger than Lambda takes."""
        body = _body(operation, event, EVENT_BYTES)
        self._cloud.call("lambda", "invoke", operation, FunctionName=self.name, Payload=body, InvocationType="Event")

    def publish(self, operation: str, description: str, variables: Mapping[str, str]) -> str:
        """A version of the function as it is, with these environment variables over its own; returns its number.

        Somebody who changes the function at the same time is noticed, and it is done again.
        """
        return self._undisturbed(operation, lambda: self._publish(operation, description, variables))

    def versions(self, operation: str) -> Iterator[Mapping[str, Any]]:
        """All published versions, over all pages."""
        for found in self._cloud.pages("lambda", "list_versions_by_function", operation, FunctionName=self.name):
            if found["Version"] != "$LATEST":
                yield found

    def aliases(self, operation: str) -> dict[str, dict[str, float]]:
        """Alias -> version -> share of its calls, of 1."""
        found = {}
        for alias in self._cloud.pages("lambda", "list_aliases", operation, FunctionName=self.name):
            others = (alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
            shares = {version: float(share) for version, share in others.items()}
            found[alias["Name"]] = {alias["FunctionVersion"]: 1.0 - sum(shares.values()), **shares}
        return found

    def point(self, operation: str, alias: str, version: str, others: Mapping[str, float] | None = None) -> None:
        """Point an alias at a version, but for the share of `others`, all at once; make it where there is none."""
        request = {
            "FunctionName": self.name, "Name": alias, "FunctionVersion": version,
            "RoutingConfig": {"AdditionalVersionWeights": dict(others or {})},
        }  # fmt: skip

        def change() -> None:
            try:
                self._cloud.call("lambda", "update_alias", operation, **request)
            except NotFound:
                self._cloud.call("lambda", "create_alias", operation, **request)

        self._undisturbed(operation, change)

    def unpoint(self, operation: str, alias: str) -> None:
        """Delete an alias; silent where there is none."""
        with suppress(NotFound):
            self._cloud.call("lambda", "delete_alias", operation, FunctionName=self.name, Name=alias)

    def provision(self, operation: str, wanted: Mapping[str, int]) -> None:
        """Have so many instances of each of these versions started, and wait. Raises NoCapacity where they are not."""
        for version, count in wanted.items():
            self._cloud.call(
                "lambda", "put_provisioned_concurrency_config", operation,
                FunctionName=self.name, Qualifier=version, ProvisionedConcurrentExecutions=count,
            )  # fmt: skip
        for version in wanted:
            self._provisioned(operation, version)

    def release(self, operation: str, kept: Collection[str]) -> None:
        """Have no instances started of any version but these."""
        for one in list(
            self._cloud.pages("lambda", "list_provisioned_concurrency_configs", operation, FunctionName=self.name)
        ):
            version = str(one["FunctionArn"]).rpartition(":")[2]
            if version not in kept:
                with suppress(NotFound):
                    self._cloud.call(
                        "lambda", "delete_provisioned_concurrency_config", operation, FunctionName=self.name, Qualifier=version
                    )  # fmt: skip

    def delete(self, operation: str, version: str) -> None:
        """Delete a version; silent where there is none. Raises ProviderError where an alias still points at it."""
        with suppress(NotFound):
            self._cloud.call("lambda", "delete_function", operation, FunctionName=self.name, Qualifier=version)

    def _publish(self, operation: str, description: str, variables: Mapping[str, str]) -> str:
        before = self._settled(operation)
        wanted = {**before.get("Environment", {}).get("Variables", {}), **variables}
        self._cloud.call(
            "lambda", "update_function_configuration", operation,
            FunctionName=self.name, Environment={"Variables": wanted}, **_revision(before),
        )  # fmt: skip
        after = self._settled(operation)
        if after.get("Environment", {}).get("Variables", {}) != wanted:
            raise PreconditionFailed("aws", operation, "somebody else changed the function meanwhile", "Repeat it")
        made = self._cloud.call(
            "lambda", "publish_version", operation, FunctionName=self.name, Description=description, **_revision(after)
        )
        number = str(made["Version"])
        try:
            self._settled(operation, number)
        except ProviderError as error:
            if not error.retryable:
                self.delete(operation, number)
            raise
        return number

    def _provisioned(self, operation: str, version: str) -> None:
        for _ in looks(CHANGE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            found = self._cloud.call(
                "lambda", "get_provisioned_concurrency_config", operation, FunctionName=self.name, Qualifier=version
            )
            if found["Status"] == "READY":
                return
            if found["Status"] == "FAILED":
                why = str(found.get("StatusReason") or "Lambda does not say why").rstrip(".")
                raise NoCapacity(
                    "aws", operation, f"its instances are not started: {why}", "Ask for fewer min_instances"
                )
        why = f"its instances are not started after {CHANGE_TIMEOUT_S:g} s"
        raise Unavailable("aws", operation, why, "Repeat it later")

    def _settled(self, operation: str, qualifier: str = "") -> dict[str, Any]:
        """The function's configuration, once no change of it is under way. Raises ProviderError when that has failed."""
        asked = {"FunctionName": self.name, **({"Qualifier": qualifier} if qualifier else {})}
        for _ in looks(CHANGE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            found = self._cloud.call("lambda", "get_function_configuration", operation, **asked)
            if "Failed" in (found.get("State"), found.get("LastUpdateStatus")):
                why = str(found.get("StateReason") or found.get("LastUpdateStatusReason") or "the function has failed")
                raise ProviderError("aws", operation, re.sub(r"\s+", " ", why).rstrip("."))
            if found.get("State") != "Pending" and found.get("LastUpdateStatus") != "InProgress":
                return found
        raise Unavailable(
            "aws", operation, f"the function is not ready after {CHANGE_TIMEOUT_S:g} s", "Repeat it later"
        )

    def _undisturbed(self, operation: str, change: Callable[[], T]) -> T:
        """Do `change`, again and again while others change the same function at the same time."""
        disturbed: ProviderError | None = None
        for _ in looks(CHANGE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            try:
                return change()
            except (PreconditionFailed, AlreadyExists, Unavailable) as error:
                disturbed = error
        assert disturbed is not None, "there is one look at least"
        raise Unavailable("aws", operation, disturbed.why, "Repeat it later") from disturbed


def said_of(answer: Answer) -> str:
    """How a call that failed says that it did."""
    try:
        said = json.loads(answer.payload)
        return ": ".join(str(said[key]) for key in ("errorType", "errorMessage") if said.get(key)) or "it failed"
    except (ValueError, TypeError, AttributeError):
        return answer.payload[:500].decode("utf-8", "replace") or "it failed"


def _body(operation: str, event: Mapping[str, Any], limit: int) -> bytes:
    body = json.dumps(event).encode()
    if len(body) > limit:
        raise SpecError(f"aws: cannot {operation}: it has {len(body)} bytes, and Lambda takes {limit} at most.")
    return body


def _revision(configuration: Mapping[str, Any]) -> dict[str, str]:
    return {"RevisionId": configuration["RevisionId"]} if configuration.get("RevisionId") else {}
