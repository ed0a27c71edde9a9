"""Endpoints on SageMaker's instances: a revision is a production variant, its model's environment names the bento.

Each configuration has all variants. Weights are not part of it: they are shifted, and stay as they are when variants come and go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ekiben import runtime
from ekiben.aws.client import Cloud
from ekiben.aws.facts import VariantsFacts, facts_of, tags
from ekiben.aws.hosting import Hosting, no_tags
from ekiben.aws.measures import SAGEMAKER, measured
from ekiben.aws.scaling import scale, stay
from ekiben.aws.storage import open_storage
from ekiben.bentos import check_bytes, last_predictions
from ekiben.errors import NotFound, SpecError, Unavailable, Unsupported
from ekiben.records import LoggedPrediction, ModelVersion, Part, Platform, Prediction, Revision, RevisionMetrics
from ekiben.revisions import check_weights, revision_id

__all__ = ["Endpoint"]

# https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateEndpointConfig.html
VARIANTS = 10


class Endpoint(runtime.Endpoint):
    """The variants of one endpoint."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        self._facts = facts_of(part, VariantsFacts)
        self._cloud = Cloud(self._facts.region)
        self._hosting = Hosting(self._cloud, part.name, tags(platform, part))
        self._storage = open_storage(self._facts.storage_uri, self._facts.region)

    def deploy(self, version: ModelVersion, *, tag: str = "") -> Revision:
        """See `runtime.Endpoint`. Takes some minutes: SageMaker starts instances. A revision that does not start is gone again.

        Raises Unsupported for a tag: a variant is called by its own name.
        """
        id, operation = revision_id(version), f"deploy {version.id} on {self.part.name!r}"
        no_tags(self.part.name, tag, id)
        there = self._hosting.usable(operation, self._facts.endpoint)
        if id not in _weights(there):
            check_bytes(self._storage, version, operation)
            self._create_model(version, operation)
            self._configure([*_weights(there), id], version, there, operation)
        return next(revision for revision in self.revisions() if revision.id == id)

    def revisions(self) -> list[Revision]:
        operation = f"list the revisions of {self.part.name!r}"
        there = self._hosting.described(operation, self._facts.endpoint)
        found = [self._revision(one, operation) for one in (there or {}).get("ProductionVariants", [])]
        return sorted(found, key=lambda revision: revision.created_at, reverse=True)

    def shift(self, weights: Mapping[str, float]) -> list[Revision]:
        """See `runtime.Endpoint`. Variants with traffic scale between the endpoint's bounds, all others have the least."""
        operation = f"shift the traffic of {self.part.name!r}"
        there = self._hosting.usable(operation, self._facts.endpoint)
        check_weights("aws", self.part.name, weights, dict.fromkeys(_weights(there), "ready"))
        wanted = {id: float(weights.get(id, 0.0)) for id in _weights(there)}
        for id in (id for id, weight in wanted.items() if not weight):
            self._stay(operation, id)
        if wanted != _weights(there):
            least = {"DesiredInstanceCount": self._facts.instances}
            self._cloud.call(
                "sagemaker", "update_endpoint_weights_and_capacities", operation, EndpointName=self._facts.endpoint,
                DesiredWeightsAndCapacities=[
                    {"VariantName": id, "DesiredWeight": weight, **({} if weight else least)} for id, weight in wanted.items()
                ],
            )  # fmt: skip
            self._hosting.settled(operation, self._facts.endpoint)
        for id in (id for id, weight in wanted.items() if weight):
            self._scale(operation, id)
        return self.revisions()

    def retire(self, revision: str) -> None:
        """See `runtime.Endpoint`. With its last revision the endpoint itself goes: SageMaker has none without."""
        operation = f"retire {revision!r} of {self.part.name!r}"
        there = self._hosting.usable(operation, self._facts.endpoint)
        weights = _weights(there)
        if weight := weights.get(revision):
            raise SpecError(
                f"The revision {revision} of {self.part.name!r} has {weight:g} % of the traffic: shift it to another one first."
            )
        if there is not None and revision in weights:
            self._stay(operation, revision)
            left = [id for id in weights if id != revision]
            if left:
                self._configure(left, None, there, operation)
            else:
                self._hosting.delete(operation, there)
        self._hosting.delete_model(operation, self._model(revision))

    def invoke(self, payload: Any, *, route: str = "predict", revision: str = "") -> Prediction:
        """See `runtime.Endpoint`. Raises Unsupported for another route: SageMaker knows one address."""
        operation = f"call the endpoint {self.part.name!r}"
        body = self._hosting.body(payload, route)
        there = _weights(self._hosting.described(operation, self._facts.endpoint))
        if revision and revision not in there:
            raise NotFound(
                "aws", operation, f"there is no revision {revision!r}; there is: {', '.join(there) or 'none'}"
            )
        if not revision and not any(there.values()):
            raise Unavailable(
                "aws", operation, "no revision of it has traffic", "Release a model with: ekiben release MODEL:VERSION"
            )
        return self._hosting.predict(operation, self._facts.endpoint, body, revision)

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
        facts, network = self._facts, {}
        if facts.subnet_ids:
            network["VpcConfig"] = {"Subnets": facts.subnet_ids, "SecurityGroupIds": facts.security_group_ids}
        self._hosting.create_model(
            operation, self._model(revision_id(version)), version, role_arn=facts.role_arn, image_uri=facts.image_uri,
            variables=facts.variables,
            EnableNetworkIsolation=facts.network_isolation, **network,
        )  # fmt: skip

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
        endpoint = self._facts.endpoint
        name = self._hosting.configure(operation, endpoint, variants, kms_key=self._facts.kms_key)
        after = self._hosting.put(operation, endpoint, name, there, RetainAllVariantProperties=True)
        started = after is not None and after["EndpointStatus"] != "Failed"
        if fresh is not None and not (started and revision_id(fresh) in _weights(after)):
            failed = self._hosting.not_started(fresh, endpoint, after, revision_id(fresh))
            if after is not None and not started:
                self._hosting.delete(operation, after)
            self._hosting.delete_configuration(operation, name)
            self._hosting.delete_model(operation, self._model(revision_id(fresh)))
            raise failed
        if there is not None and there["EndpointConfigName"] != name:
            self._hosting.delete_configuration(operation, there["EndpointConfigName"])

    def _scale(self, operation: str, revision: str) -> None:
        facts = self._facts
        if facts.max_instances > facts.instances:
            bounds = (facts.instances, facts.max_instances)
            scale(self._cloud, operation, self._scaled(revision), *bounds, facts.concurrency)

    def _stay(self, operation: str, revision: str) -> None:
        if self._facts.max_instances > self._facts.instances:
            stay(self._cloud, operation, self._scaled(revision))

    def _scaled(self, revision: str) -> str:
        return f"endpoint/{self._facts.endpoint}/variant/{revision}"

    def _revision(self, variant: Mapping[str, Any], operation: str) -> Revision:
        id = variant["VariantName"]
        told, created_at = self._hosting.model(operation, self._model(id))
        return Revision(
            id=id, endpoint=self.part.name, version=told["EKIBEN_MODEL_VERSION"], digest=told["EKIBEN_DIGEST"], state="ready",
            weight=float(variant.get("CurrentWeight", 0.0)), instances=int(variant.get("CurrentInstanceCount", 0)),
            created_at=created_at,
        )  # fmt: skip

    def _model(self, revision: str) -> str:
        return f"{self._facts.endpoint}-{revision}"


def _weights(endpoint: Mapping[str, Any] | None) -> dict[str, float]:
    """Variant -> its weight, which is a percentage because Ekiben sets it so."""
    return {
        one["VariantName"]: float(one.get("DesiredWeight", one.get("CurrentWeight", 0.0)))
        for one in (endpoint or {}).get("ProductionVariants", [])
    }
