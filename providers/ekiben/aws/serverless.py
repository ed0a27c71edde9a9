"""Endpoints on SageMaker serverless: a revision is an endpoint of its own, which costs nothing until it is called.

Another endpoint has the traffic, and is given the model of the revision. SageMaker serverless has one variant an endpoint, so all
traffic goes to one revision; which one, the endpoint itself tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ekiben import runtime
from ekiben.aws.client import Cloud
from ekiben.aws.facts import ServerlessFacts, facts_of, tags
from ekiben.aws.hosting import Hosting, no_tags
from ekiben.aws.measures import SAGEMAKER, measured
from ekiben.aws.storage import open_storage
from ekiben.bentos import check_bytes, last_predictions
from ekiben.errors import ModelFailed, NotFound, SpecError, Unavailable
from ekiben.records import (
    LoggedPrediction,
    ModelVersion,
    Part,
    Platform,
    Prediction,
    Revision,
    RevisionMetrics,
    RevisionState,
)
from ekiben.revisions import REVISION, check_weights, revision_id, whole

__all__ = ["Endpoint"]

STATES: Mapping[str, RevisionState] = {"InService": "ready", "Failed": "failed", "Deleting": "retiring"}


class Endpoint(runtime.Endpoint):
    """The endpoints of one component: the one that callers know, and one for each revision."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        self._facts = facts_of(part, ServerlessFacts)
        self._cloud = Cloud(self._facts.region)
        self._hosting = Hosting(self._cloud, part.name, tags(platform, part))
        self._storage = open_storage(self._facts.storage_uri, self._facts.region)

    def deploy(self, version: ModelVersion, *, tag: str = "") -> Revision:
        """See `runtime.Endpoint`. Takes some minutes. A revision that does not start is gone again.

        Raises Unsupported for a tag: a revision is called by its own name.
        """
        id, operation = revision_id(version), f"deploy {version.id} on {self.part.name!r}"
        no_tags(self.part.name, tag, id)
        name = self._own(id)
        there: Mapping[str, Any] | None = self._hosting.usable(operation, name)
        if there is None:
            check_bytes(self._storage, version, operation)
            self._hosting.create_model(
                operation,
                name,
                version,
                role_arn=self._facts.role_arn,
                image_uri=self._facts.image_uri,
                variables=self._facts.variables,
            )
            configuration = self._hosting.configure(operation, self._facts.serverless, [self._variant(id)])
            there = self._hosting.put(operation, name, configuration, None)
        if there is None or there["EndpointStatus"] == "Failed":
            failed = self._hosting.not_started(version, name, there, id)
            self._remove(operation, id, there)
            raise failed
        return next(revision for revision in self.revisions() if revision.id == id)

    def revisions(self) -> list[Revision]:
        """See `runtime.Endpoint`. How many instances run, SageMaker does not say: that is 0."""
        operation = f"list the revisions of {self.part.name!r}"
        live = self._live(operation)
        found = []
        for one in self._cloud.pages(
            "sagemaker", "list_endpoints", operation, NameContains=f"{self._facts.serverless}-v"
        ):
            id = one["EndpointName"].removeprefix(f"{self._facts.serverless}-")
            if one["EndpointName"] != self._own(id) or not REVISION.fullmatch(id):
                continue
            told, created_at = self._hosting.model(operation, self._own(id))
            found.append(
                Revision(
                    id=id, endpoint=self.part.name, version=told["EKIBEN_MODEL_VERSION"], digest=told["EKIBEN_DIGEST"],
                    state=STATES.get(one["EndpointStatus"], "starting"), weight=100.0 if id == live else 0.0,
                    created_at=created_at,
                )
            )  # fmt: skip
        return sorted(found, key=lambda revision: revision.created_at, reverse=True)

    def shift(self, weights: Mapping[str, float]) -> list[Revision]:
        """See `runtime.Endpoint`. SageMaker starts the revision beside the one before, and then gives it all traffic.

        Raises Unsupported for more than one revision with traffic, ModelFailed where SageMaker took the change back.
        """
        operation = f"shift the traffic of {self.part.name!r}"
        there = {one.id: one for one in self.revisions()}
        check_weights("aws", self.part.name, weights, {id: one.state for id, one in there.items()})
        id = whole(self.part.name, weights, "SageMaker serverless gives an endpoint one variant")
        name = self._facts.serverless
        before = self._hosting.usable(operation, name)
        # Named apart from those of the revisions: what has traffic is deleted and changed without them.
        configuration = self._hosting.configure(operation, f"{name}-live", [self._variant(id, live=True)])
        after = self._hosting.put(operation, name, configuration, before)
        if after is None or after["EndpointStatus"] == "Failed" or after["EndpointConfigName"] != configuration:
            self._hosting.delete_configuration(operation, configuration)
            why = str((after or {}).get("FailureReason") or "SageMaker does not say why").rstrip(".")
            raise ModelFailed(f"aws: {there[id].version} does not take the traffic of {self.part.name!r}: {why}.")
        if before is not None and before["EndpointConfigName"] != configuration:
            self._hosting.delete_configuration(operation, before["EndpointConfigName"])
        return self.revisions()

    def retire(self, revision: str) -> None:
        """See `runtime.Endpoint`. The log of its tests goes with it."""
        operation = f"retire {revision!r} of {self.part.name!r}"
        if not REVISION.fullmatch(revision):
            return
        if revision == self._live(operation):
            raise SpecError(
                f"The revision {revision} of {self.part.name!r} has 100 % of the traffic: shift it to another one first."
            )
        self._remove(operation, revision, self._hosting.settled(operation, self._own(revision)))

    def invoke(self, payload: Any, *, route: str = "predict", revision: str = "") -> Prediction:
        """See `runtime.Endpoint`. Raises Unsupported for another route: SageMaker knows one address."""
        operation = f"call the endpoint {self.part.name!r}"
        body = self._hosting.body(payload, route)
        try:
            return self._hosting.predict(operation, self._own(revision) if revision else self._facts.serverless, body)
        except NotFound as error:
            if revision:
                there = ", ".join(one.id for one in self.revisions()) or "none"
                raise NotFound("aws", operation, f"there is no revision {revision!r}; there is: {there}") from error
            raise Unavailable(
                "aws", operation, "no revision of it has traffic", "Release a model with: ekiben release MODEL:VERSION"
            ) from error

    def metrics(self) -> list[RevisionMetrics]:
        """See `runtime.Endpoint`. From CloudWatch, some minutes late: of the traffic, and of the calls by its id."""
        operation = f"measure {self.part.name!r}"
        found = []
        for one in self.revisions():
            where = [
                {"EndpointName": name, "VariantName": one.id} for name in (self._facts.serverless, self._own(one.id))
            ]
            found.append(measured(self._cloud, operation, one.id, one.created_at, where, SAGEMAKER))
        return found

    def predictions(self, last: int = 100) -> list[LoggedPrediction]:
        return last_predictions(self._storage, self.part.name, last)

    def _variant(self, revision: str, *, live: bool = False) -> dict[str, Any]:
        size = {"MemorySizeInMB": self._facts.memory_mib, "MaxConcurrency": self._facts.max_concurrency}
        if live and self._facts.provisioned:
            size["ProvisionedConcurrency"] = self._facts.provisioned
        return {"VariantName": revision, "ModelName": self._own(revision), "ServerlessConfig": size}

    def _remove(self, operation: str, revision: str, there: Mapping[str, Any] | None) -> None:
        name = self._own(revision)
        if there is not None:
            self._hosting.delete(operation, there)
        self._hosting.delete_model(operation, name)
        self._hosting.delete_log(operation, name)

    def _live(self, operation: str) -> str:
        return _serves(self._hosting.described(operation, self._facts.serverless))

    def _own(self, revision: str) -> str:
        """What the revision's own endpoint and its model are called."""
        return f"{self._facts.serverless}-{revision}"


def _serves(endpoint: Mapping[str, Any] | None) -> str:
    """The revision whose model the endpoint has; empty where it has none."""
    return next((str(one["VariantName"]) for one in (endpoint or {}).get("ProductionVariants", [])), "")
