"""Storage: a bucket of the stack's store."""

from __future__ import annotations

from typing import Any

import pulumi

from ekiben import components
from ekiben.components import Component
from ekiben.errors import SpecError, Unsupported
from ekiben.kubernetes import SUPPORT
from ekiben.kubernetes.components.program import Kubernetes, current
from ekiben.kubernetes.components.resources import Bucket
from ekiben.kubernetes.components.store import store_of
from ekiben.programs import facts

__all__ = ["Storage", "storage_of"]


class Storage(Kubernetes, components.Storage):
    """bucket: the bucket, once it is there. where: what a resource of Ekiben's plugin is told to find it."""

    support = SUPPORT
    bucket: Bucket
    where: dict[str, Any]

    def create(self) -> None:
        program = current()
        store = store_of(self)
        if self.spec.retain and store.own:
            raise Unsupported(
                f"StorageSpec of {self.name!r}: retain=True: the store that runs in the stack's namespace goes with it. Name one "
                "that stays, with `pulumi config set ekiben:s3Endpoint URL` and ekiben:s3Secret."
            )
        # A store of the stack's own has no other buckets; in another one the names of all its users meet.
        default = self.name if store.own else self.namespace.apply(lambda name: bucket_name(name, self.name))
        bucket: pulumi.Input[str] = program.settings.buckets.get(self.name) or default
        self.where = {**self.place, "s3": store.s3, "bucket": bucket}
        given = self.name in program.settings.buckets
        self.bucket = Bucket(
            self.name,
            {**self.where, "keep": given or self.spec.retain},
            opts=self.opts(retain=self.spec.retain, depends_on=store.ready),
        )
        self.ref = self.uri
        self.facts = facts(namespace=self.namespace, uri=self.uri, s3=self.s3, context=program.settings.context)
        program.storages[self.name] = self

    @property
    def uri(self) -> pulumi.Output[str]:
        return self.bucket.uri

    @property
    def s3(self) -> pulumi.Output[dict[str, Any]]:
        return store_of(self).s3


def bucket_name(namespace: str, name: str) -> str:
    """Of a bucket in a store that others use, too: 63 characters at most."""
    return f"{namespace[: 62 - len(name)].rstrip('-')}-{name}"


def storage_of(component: Component[Any], storage: components.Storage) -> Storage:
    """`storage`, when it is one of Kubernetes. Raises SpecError, naming both."""
    if not isinstance(storage, Storage):
        raise SpecError(
            f"The {component.kind} {component.name!r} is on kubernetes and its storage {storage.name!r} is on {storage.provider}: "
            "its pods read and write the stack's store only. Give it a storage of kubernetes."
        )
    return storage
