"""Registry: records in its storage, and decisions among the platform's events."""

from __future__ import annotations

import pulumi

from ekiben import components
from ekiben.kubernetes import SUPPORT
from ekiben.kubernetes.components.program import Kubernetes, current
from ekiben.kubernetes.components.storage import storage_of
from ekiben.programs import facts

__all__ = ["Registry", "bus"]


class Registry(Kubernetes, components.Registry):
    """Nothing of its own runs: it is objects in a bucket."""

    support = SUPPORT

    def create(self) -> None:
        storage = storage_of(self, self.storage)
        uri = pulumi.Output.concat(storage.uri, "/registry/", self.name)
        self.ref = uri
        self.facts = facts(
            namespace=self.namespace,
            uri=uri,
            s3=storage.s3,
            bus=bus(),
            require_approval=self.spec.require_approval,
            context=current().settings.context,
        )


def bus() -> pulumi.Output[str]:
    """Where the platform's events are: in the first storage that the program has made, for all its parts."""
    first = next(iter(current().storages.values()))
    return pulumi.Output.concat(first.uri, "/deliveries/_events")
