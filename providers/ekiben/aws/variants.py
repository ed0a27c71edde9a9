"""Endpoints on SageMaker's instances: a revision is a production variant, its model's environment names the bento.

SageMaker changes one configuration for another: each has all variants, and its name follows from them, so that doing it again is
the same. Weights are not part of it: they are shifted, and stay as they are when variants come and go.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from ekiben import runtime
from ekiben.aws.bentos import check_bytes, last_predictions
from ekiben.aws.client import Cloud
from ekiben.aws.errors import RoleNotReady, code_of
from ekiben.aws.facts import VariantsFacts, facts_of, tags
from ekiben.aws.logs import lines
from ekiben.aws.measures import SAGEMAKER, measured
from ekiben.aws.storage import open_storage
from ekiben.errors import AlreadyExists, ModelFailed, NotFound, ProviderError, SpecError, Unavailable, Unsupported
from ekiben.invocations import as_json, parsed, refusal
from ekiben.records import LoggedPrediction, ModelVersion, Part, Platform, Prediction, Revision, RevisionMetrics
from ekiben.revisions import check_tag, check_weights, revision_id

__all__ = ["Endpoint"]

# https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateEndpointConfig.html
VARIANTS = 10
CHANGE_TIMEOUT_S = 3600.0
ROLE_TIMEOUT_S = 120.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 15.0
TAIL_LINES = 20


class Endpoint(runtime.Endpoint):
    """The variants of one endpoint."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        self._facts = facts_of(part, VariantsFacts)
        self._cloud = Cloud(self._facts.region)
        self._storage = open_storage(self._facts.storage_uri, self._facts.region)
        self._tags = tags(platform, part)

    def deploy(self, version: ModelVersion, *, tag: str = "") -> Revision:
        """See `runtime.Endpoint`. Takes some minutes: SageMaker starts instances. A revision that does not start is gone again.

        Raises Unsupported for a tag: a variant is called by its own name.
        """
        id, operation = revision_id(version), f"deploy {version.id} on {self.part.name!r}"
        if tag:
            check_tag(tag)
            raise Unsupported(f"Endpoint {self.part.name!r}: SageMaker's variants have no tags. Call {id!r} by its id.")
        there = self._usable(operation)
        if id not in _weights(there):
            check_bytes(self._storage, version, operation)
            self._create_model(version, operation)
            self._configure([*_weights(there), id], version, there, operation)
        return next(revision for revision in self.revisions() if revision.id == id)

    def revisions(self) -> list[Revision]:
        operation = f"list the revisions of {self.part.name!r}"
        there = self._described(operation)
        found = [self._revision(one, operation) for one in (there or {}).get("ProductionVariants", [])]
        return sorted(found, key=lambda revision: revision.created_at, reverse=True)

    def shift(self, weights: Mapping[str, float]) -> list[Revision]:
        operation = f"shift the traffic of {self.part.name!r}"
        there = self._usable(operation)
        check_weights("aws", self.part.name, weights, dict.fromkeys(_weights(there), "ready"))
        wanted = {id: float(weights.get(id, 0.0)) for id in _weights(there)}
        if wanted != _weights(there):
            self._cloud.call(
                "sagemaker", "update_endpoint_weights_and_capacities", operation, EndpointName=self._facts.endpoint,
                DesiredWeightsAndCapacities=[{"VariantName": id, "DesiredWeight": weight} for id, weight in wanted.items()],
            )  # fmt: skip
            self._settled(operation)
        return self.revisions()

    def retire(self, revision: str) -> None:
        """See `runtime.Endpoint`. With its last revision the endpoint itself goes: SageMaker has none without."""
        operation = f"retire {revision!r} of {self.part.name!r}"
        there = self._usable(operation)
        weights = _weights(there)
        if weight := weights.get(revision):
            raise SpecError(
                f"The revision {revision} of {self.part.name!r} has {weight:g} % of the traffic: shift it to another one first."
            )
        if there is not None and revision in weights:
            left = [id for id in weights if id != revision]
            if left:
                self._configure(left, None, there, operation)
            else:
                self._delete_endpoint(there, operation)
        self._delete_model(revision, operation)

    def invoke(self, payload: Any, *, route: str = "predict", revision: str = "") -> Prediction:
        """See `runtime.Endpoint`. Raises Unsupported for another route: SageMaker knows one address."""
        name, operation = self.part.name, f"call the endpoint {self.part.name!r}"
        body = as_json(payload, "The payload")
        if route.strip("/") != "predict":
            raise Unsupported(f"Endpoint {name!r}: SageMaker serves the route 'predict' alone, not {route!r}.")
        there = self._weights_seen(operation)
        if revision and revision not in there:
            raise NotFound(
                "aws", operation, f"there is no revision {revision!r}; there is: {', '.join(there) or 'none'}"
            )
        if not revision and not any(there.values()):
            raise Unavailable(
                "aws", operation, "no revision of it has traffic", "Release a model with: ekiben release MODEL:VERSION"
            )
        began = time.perf_counter()
        try:
            answer = self._cloud.call_once(
                "sagemaker-runtime", "invoke_endpoint", operation, EndpointName=self._facts.endpoint, Body=body.encode(),
                ContentType="application/json", Accept="application/json", **({"TargetVariant": revision} if revision else {}),
            )  # fmt: skip
        except ProviderError as error:
            if code_of(error.__cause__) != "ModelError":
                raise
            said: Any = getattr(error.__cause__, "response", {})
            status, text = int(said.get("OriginalStatusCode", 500)), str(said.get("OriginalMessage", error.why))
            raise refusal("aws", name, route, status, text.encode()) from error
        latency_ms = (time.perf_counter() - began) * 1000
        return Prediction(
            endpoint=name, revision=str(answer.get("InvokedProductionVariant") or revision), latency_ms=latency_ms,
            body=parsed("aws", name, route, answer["Body"].read()),
            id=str(answer.get("ResponseMetadata", {}).get("RequestId", "")),
        )  # fmt: skip

    def metrics(self) -> list[RevisionMetrics]:
        operation = f"measure {self.part.name!r}"
        where = {"EndpointName": self._facts.endpoint}
        return [
            measured(self._cloud, operation, one.id, one.created_at, [{**where, "VariantName": one.id}], SAGEMAKER)
            for one in self.revisions()
        ]

    def predictions(self, last: int = 100) -> list[LoggedPrediction]:
        return last_predictions(self._storage, self.part.name, last)

    def _create_model(self, version: ModelVersion, operation: str) -> None:
        environment = {"EKIBEN_BENTO": version.bento_uri, "EKIBEN_DIGEST": version.digest, "EKIBEN_VERSION": version.id}
        request: dict[str, Any] = {
            "ModelName": self._model(revision_id(version)), "ExecutionRoleArn": self._facts.role_arn, "Tags": self._tags,
            "PrimaryContainer": {"Image": self._facts.image_uri, "Environment": environment},
            "EnableNetworkIsolation": self._facts.network_isolation,
        }  # fmt: skip
        if self._facts.subnet_ids:
            request["VpcConfig"] = {
                "Subnets": self._facts.subnet_ids,
                "SecurityGroupIds": self._facts.security_group_ids,
            }
        deadline = time.monotonic() + ROLE_TIMEOUT_S
        while True:
            try:
                with suppress(AlreadyExists):
                    self._cloud.call("sagemaker", "create_model", operation, **request)
                return
            except RoleNotReady:
                if time.monotonic() > deadline:
                    raise
            time.sleep(FIRST_PAUSE_S)

    def _configure(
        self, ids: list[str], fresh: ModelVersion | None, there: Mapping[str, Any] | None, operation: str
    ) -> None:
        """Give the endpoint these variants, and wait. Raises ModelFailed when `fresh` does not start: all is then as it was."""
        if len(ids) > VARIANTS:
            raise Unsupported(
                f"Endpoint {self.part.name!r} has {VARIANTS} revisions, the most on aws: retire some of them."
            )
        shape = {"InstanceType": self._facts.instance_type, "InitialInstanceCount": self._facts.instances}
        weights = _weights(there)
        variants = [
            {"VariantName": id, "ModelName": self._model(id), "InitialVariantWeight": weights.get(id, 0.0), **shape}
            for id in sorted(ids)
        ]
        digest = hashlib.sha256(json.dumps(variants).encode()).hexdigest()[:12]
        name = f"{self._facts.endpoint}-{digest}"
        request = {"EndpointConfigName": name, "ProductionVariants": variants, "Tags": self._tags}
        if self._facts.kms_key:
            request["KmsKeyId"] = self._facts.kms_key
        with suppress(AlreadyExists):
            self._cloud.call("sagemaker", "create_endpoint_config", operation, **request)
        asked = {"EndpointName": self._facts.endpoint, "EndpointConfigName": name}
        if there is None:
            with suppress(AlreadyExists):
                self._cloud.call("sagemaker", "create_endpoint", operation, **asked, Tags=self._tags)
        elif there["EndpointConfigName"] != name:
            self._cloud.call("sagemaker", "update_endpoint", operation, **asked, RetainAllVariantProperties=True)
        after = self._settled(operation)
        started = after is not None and after["EndpointStatus"] != "Failed"
        if fresh is not None and not (started and revision_id(fresh) in _weights(after)):
            if after is not None and not started:
                self._delete_endpoint(after, operation)
            self._delete_configuration(name, operation)
            self._delete_model(revision_id(fresh), operation)
            why = str((after or {}).get("FailureReason") or "SageMaker does not say why").rstrip(".")
            raise ModelFailed(f"aws: {fresh.id} does not start: {why}.", tail=self._tail(fresh), log_uri=self._log_uri)
        if there is not None and there["EndpointConfigName"] != name:
            self._delete_configuration(there["EndpointConfigName"], operation)

    def _usable(self, operation: str) -> dict[str, Any] | None:
        """The endpoint once nothing changes it; one that has never started is deleted, and none."""
        there = self._settled(operation)
        if there is not None and there["EndpointStatus"] == "Failed":
            self._delete_endpoint(there, operation)
            return None
        return there

    def _settled(self, operation: str) -> dict[str, Any] | None:
        """The endpoint once nothing changes it; None where there is none."""
        deadline, pause_s = time.monotonic() + CHANGE_TIMEOUT_S, FIRST_PAUSE_S
        while True:
            there = self._described(operation)
            if there is None or there["EndpointStatus"] in ("InService", "Failed", "UpdateRollbackFailed"):
                return there
            if time.monotonic() > deadline:
                why = f"it is {there['EndpointStatus']} after {CHANGE_TIMEOUT_S:g} s"
                raise Unavailable("aws", operation, why, "It goes on changing; repeat it later")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    def _described(self, operation: str) -> dict[str, Any] | None:
        with suppress(NotFound):
            return self._cloud.call("sagemaker", "describe_endpoint", operation, EndpointName=self._facts.endpoint)
        return None

    def _weights_seen(self, operation: str) -> dict[str, float]:
        return _weights(self._described(operation))

    def _revision(self, variant: Mapping[str, Any], operation: str) -> Revision:
        id = variant["VariantName"]
        model = self._cloud.call("sagemaker", "describe_model", operation, ModelName=self._model(id))
        told = model["PrimaryContainer"]["Environment"]
        return Revision(
            id=id, endpoint=self.part.name, version=told["EKIBEN_VERSION"], digest=told["EKIBEN_DIGEST"], state="ready",
            weight=float(variant.get("CurrentWeight", 0.0)), instances=int(variant.get("CurrentInstanceCount", 0)),
            created_at=_time(model["CreationTime"]),
        )  # fmt: skip

    def _delete_model(self, revision: str, operation: str) -> None:
        with suppress(NotFound):
            self._cloud.call("sagemaker", "delete_model", operation, ModelName=self._model(revision))

    def _delete_configuration(self, name: str, operation: str) -> None:
        with suppress(NotFound):
            self._cloud.call("sagemaker", "delete_endpoint_config", operation, EndpointConfigName=name)

    def _delete_endpoint(self, there: Mapping[str, Any], operation: str) -> None:
        """Delete the endpoint and its configuration, and wait until it is gone."""
        with suppress(NotFound):
            self._cloud.call("sagemaker", "delete_endpoint", operation, EndpointName=self._facts.endpoint)
        self._settled(operation)
        self._delete_configuration(there["EndpointConfigName"], operation)

    def _tail(self, version: ModelVersion) -> str:
        operation = f"read the log of {version.id}"
        found = list(lines(self._cloud, self._log_group, operation, prefix=f"{revision_id(version)}/"))
        return "\n".join(found[-TAIL_LINES:])

    def _model(self, revision: str) -> str:
        return f"{self._facts.endpoint}-{revision}"

    @property
    def _log_group(self) -> str:
        return f"/aws/sagemaker/Endpoints/{self._facts.endpoint}"

    @property
    def _log_uri(self) -> str:
        return f"cloudwatch:{self._facts.region}:{self._log_group}"


def _weights(endpoint: Mapping[str, Any] | None) -> dict[str, float]:
    """Variant -> its weight, which is a percentage because Ekiben sets it so."""
    return {
        one["VariantName"]: float(one.get("DesiredWeight", one.get("CurrentWeight", 0.0)))
        for one in (endpoint or {}).get("ProductionVariants", [])
    }


def _time(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
