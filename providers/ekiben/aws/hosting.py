"""SageMaker's models, configurations and endpoints: made and deleted so that it can be repeated, changes waited for, called.

SageMaker changes an endpoint by giving it another configuration. A configuration's name follows from what it says: made again it is
the same one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from ekiben.aws.client import Cloud
from ekiben.aws.errors import code_of
from ekiben.aws.logs import lines
from ekiben.aws.waiting import looks, when_assumable
from ekiben.bentos import environment
from ekiben.errors import AlreadyExists, EkibenError, ModelFailed, NotFound, ProviderError, Unavailable, Unsupported
from ekiben.invocations import as_json, parsed, refusal
from ekiben.records import ModelVersion, Prediction
from ekiben.revisions import check_tag

__all__ = ["Hosting", "moment", "no_tags"]

CHANGE_TIMEOUT_S = 3600.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 15.0
TAIL_LINES = 20
# What POST /invocations calls, see `ekiben.serving.sagemaker`.
ROUTE = "predict"


class Hosting:
    """SageMaker's inference in one region, for the endpoint component `part`; all that it makes carries `tags`."""

    def __init__(self, cloud: Cloud, part: str, tags: Sequence[Mapping[str, str]]) -> None:
        self._cloud, self._part, self._tags = cloud, part, list(tags)

    def create_model(
        self,
        operation: str,
        name: str,
        version: ModelVersion,
        *,
        role_arn: str,
        image_uri: str,
        variables: Mapping[str, str],
        **more: Any,
    ) -> None:
        """A model whose environment names the version's bento; silent where it is there. `more` goes to CreateModel as it is."""
        request = {
            "ModelName": name, "ExecutionRoleArn": role_arn, "Tags": self._tags,
            "PrimaryContainer": {"Image": image_uri, "Environment": {**variables, **environment(version)}}, **more,
        }  # fmt: skip
        with suppress(AlreadyExists):
            when_assumable(
                lambda: self._cloud.call("sagemaker", "create_model", operation, **request),
                FIRST_PAUSE_S,
                FIRST_PAUSE_S,
            )

    def model(self, operation: str, name: str) -> tuple[Mapping[str, str], str]:
        """What a model's environment says, and when it was made. Raises NotFound."""
        found = self._cloud.call("sagemaker", "describe_model", operation, ModelName=name)
        return found["PrimaryContainer"]["Environment"], moment(found["CreationTime"])

    def delete_model(self, operation: str, name: str) -> None:
        with suppress(NotFound):
            self._cloud.call("sagemaker", "delete_model", operation, ModelName=name)

    def configure(
        self, operation: str, prefix: str, variants: Sequence[Mapping[str, Any]], *, kms_key: str = ""
    ) -> str:
        """A configuration with these variants; its name, "PREFIX-DIGEST"."""
        name = f"{prefix}-{hashlib.sha256(json.dumps(variants).encode()).hexdigest()[:12]}"
        request = {"EndpointConfigName": name, "ProductionVariants": variants, "Tags": self._tags}
        if kms_key:
            request["KmsKeyId"] = kms_key
        with suppress(AlreadyExists):
            self._cloud.call("sagemaker", "create_endpoint_config", operation, **request)
        return name

    def delete_configuration(self, operation: str, name: str) -> None:
        with suppress(NotFound):
            self._cloud.call("sagemaker", "delete_endpoint_config", operation, EndpointConfigName=name)

    def put(
        self, operation: str, name: str, configuration: str, there: Mapping[str, Any] | None, **more: Any
    ) -> Mapping[str, Any] | None:
        """Give the endpoint the configuration, or make it with it where `there` is none; the endpoint once that has ended.

        `more` goes to UpdateEndpoint as it is. None: somebody has deleted it meanwhile.
        """
        asked = {"EndpointName": name, "EndpointConfigName": configuration}
        if there is None:
            with suppress(AlreadyExists):
                self._cloud.call("sagemaker", "create_endpoint", operation, **asked, Tags=self._tags)
        elif there["EndpointConfigName"] != configuration:
            self._cloud.call("sagemaker", "update_endpoint", operation, **asked, **more)
        return self.settled(operation, name)

    def usable(self, operation: str, name: str) -> dict[str, Any] | None:
        """The endpoint once nothing changes it; one that has never started is deleted, and none."""
        there = self.settled(operation, name)
        if there is not None and there["EndpointStatus"] == "Failed":
            self.delete(operation, there)
            return None
        return there

    def settled(self, operation: str, name: str) -> dict[str, Any] | None:
        """The endpoint once nothing changes it; None where there is none."""
        status = ""
        for _ in looks(CHANGE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            there = self.described(operation, name)
            if there is None or there["EndpointStatus"] in ("InService", "Failed", "UpdateRollbackFailed"):
                return there
            status = there["EndpointStatus"]
        why = f"it is {status} after {CHANGE_TIMEOUT_S:g} s"
        raise Unavailable("aws", operation, why, "It goes on changing; repeat it later")

    def described(self, operation: str, name: str) -> dict[str, Any] | None:
        """The endpoint as it is; None where there is none."""
        with suppress(NotFound):
            return self._cloud.call("sagemaker", "describe_endpoint", operation, EndpointName=name)
        return None

    def delete(self, operation: str, there: Mapping[str, Any]) -> None:
        """Delete an endpoint and its configuration, and wait until it is gone."""
        with suppress(NotFound):
            self._cloud.call("sagemaker", "delete_endpoint", operation, EndpointName=there["EndpointName"])
        self.settled(operation, there["EndpointName"])
        self.delete_configuration(operation, there["EndpointConfigName"])

    def body(self, payload: Any, route: str) -> bytes:
        """What `predict` sends. Raises SpecError for what is no JSON, Unsupported for a route that SageMaker has no address for."""
        body = as_json(payload, "The payload")
        if route.strip("/") != ROUTE:
            raise Unsupported(f"Endpoint {self._part!r}: SageMaker serves the route {ROUTE!r} alone, not {route!r}.")
        return body.encode()

    def predict(self, operation: str, name: str, body: bytes, variant: str = "") -> Prediction:
        """Call an endpoint, or one variant of it. Raises NotFound where there is none, and what the model's refusal means."""
        began = time.perf_counter()
        try:
            answer = self._cloud.call_once(
                "sagemaker-runtime", "invoke_endpoint", operation, EndpointName=name, Body=body,
                ContentType="application/json", Accept="application/json", **({"TargetVariant": variant} if variant else {}),
            )  # fmt: skip
        except ProviderError as error:
            raise self._refusal(error) from error
        latency_ms = (time.perf_counter() - began) * 1000
        return Prediction(
            endpoint=self._part, revision=str(answer.get("InvokedProductionVariant") or variant), latency_ms=latency_ms,
            body=parsed("aws", self._part, ROUTE, answer["Body"].read()),
            id=str(answer.get("ResponseMetadata", {}).get("RequestId", "")),
        )  # fmt: skip

    def not_started(
        self, version: ModelVersion, endpoint: str, there: Mapping[str, Any] | None, revision: str
    ) -> ModelFailed:
        """What says that a version does not start, with what SageMaker and its log say of it."""
        why = str((there or {}).get("FailureReason") or "SageMaker does not say why").rstrip(".")
        group = f"/aws/sagemaker/Endpoints/{endpoint}"
        found = list(lines(self._cloud, group, f"read the log of {version.id}", prefix=f"{revision}/"))
        return ModelFailed(
            f"aws: {version.id} does not start: {why}.",
            tail="\n".join(found[-TAIL_LINES:]), log_uri=f"cloudwatch:{self._cloud.region}:{group}",
        )  # fmt: skip

    def delete_log(self, operation: str, endpoint: str) -> None:
        with suppress(NotFound):
            self._cloud.call("logs", "delete_log_group", operation, logGroupName=f"/aws/sagemaker/Endpoints/{endpoint}")

    def _refusal(self, error: ProviderError) -> EkibenError:
        if code_of(error.__cause__) != "ModelError":
            return error
        said: Any = getattr(error.__cause__, "response", {})
        status, text = int(said.get("OriginalStatusCode", 500)), str(said.get("OriginalMessage", error.why))
        return refusal("aws", self._part, ROUTE, status, text.encode())


def no_tags(endpoint: str, tag: str, revision: str) -> None:
    """Raise Unsupported for a tag: what serves on its own name here has no other."""
    if tag:
        check_tag(tag)
        raise Unsupported(
            f"Endpoint {endpoint!r}: its revisions have no tags on this service. Call {revision!r} by its id."
        )


def moment(value: datetime) -> str:
    """A time of AWS's as RFC 3339 in UTC."""
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
