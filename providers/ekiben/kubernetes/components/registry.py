"""Registry: records in its storage, decisions among the platform's events, and a mirror in MLflow where the config names one."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi

from ekiben import components
from ekiben.kubernetes import SUPPORT
from ekiben.kubernetes.components.mlflow import mlflow_of
from ekiben.kubernetes.components.program import Kubernetes, Rule, current, rule
from ekiben.kubernetes.components.resources import Models
from ekiben.kubernetes.components.storage import storage_of
from ekiben.programs import facts

__all__ = ["Registry", "bus"]


class Registry(Kubernetes, components.Registry):
    """Objects in a bucket; nothing of its own runs but the mirror, of which a stack has one."""

    support = SUPPORT

    def create(self) -> None:
        storage, told = storage_of(self, self.storage), current().settings
        mlflow, of_others = mlflow_of(self)
        if of_others:
            shown = {"context": told.context, "namespace": self.namespace, "mlflow": mlflow}
            Models(f"{self.name}-models", {**shown, "models": mlflow.apply(lambda at: str(at["models"]))}, self.opts())
        uri = pulumi.Output.concat(storage.uri, "/registry/", self.name)
        self.ref = uri
        self.facts = facts(
            namespace=self.namespace,
            uri=uri,
            s3=storage.s3,
            bus=bus(),
            require_approval=self.spec.require_approval,
            mlflow=mlflow,
            context=told.context,
        )

    def needs(self) -> Sequence[Rule]:
        """Know what the mirror's server asks for."""
        told = current().settings
        shown = self.spec.mirror != "off" and told.mlflow_uri and told.mlflow_secret
        return (rule("", "secrets", "get", told.mlflow_secret),) if shown else ()


def bus() -> pulumi.Output[str]:
    """Where the platform's events are: in the first storage that the program has made, for all its parts."""
    first = next(iter(current().storages.values()))
    return pulumi.Output.concat(first.uri, "/deliveries/_events")
