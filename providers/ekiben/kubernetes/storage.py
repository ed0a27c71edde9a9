"""Storage on an S3-compatible store: `ekiben.storage` with the store's address, and keys from its Secret, kept in memory alone."""

from __future__ import annotations

import base64
import os
from typing import Any

from ekiben import storage
from ekiben.errors import NotFound
from ekiben.kubernetes.client import Cluster, inside
from ekiben.kubernetes.facts import S3, StorageFacts, facts_of
from ekiben.records import Part, Platform

__all__ = ["Storage", "keys_of", "open_storage", "secret_of", "url_of"]


class Storage(storage.Storage):
    """The objects of a bucket. The Secret is read on the first call, not before."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        self._facts = facts_of(part, StorageFacts)

    def _options(self) -> dict[str, Any]:
        cluster, s3 = Cluster(self._facts.namespace, self._facts.context), self._facts.s3
        key_id, secret = keys_of(cluster, s3)
        # Given so, whatever else is in the environment of who calls is another store's.
        keys = {"access_key_id": key_id, "secret_access_key": secret, "token": None, "expires_at": None}
        return {
            "endpoint": url_of(cluster, s3), "region": s3.region, "virtual_hosted_style_request": False,
            "credential_provider": lambda: keys,
        }  # fmt: skip


def open_storage(uri: str, namespace: str, s3: S3, context: str = "") -> Storage:
    """The storage at s3://BUCKET or s3://BUCKET/PREFIX, which calls nothing yet. Raises SpecError for another URI."""
    facts = StorageFacts(namespace=namespace, uri=uri, s3=s3, context=context)
    part = Part(name="", kind="storage", provider="kubernetes", ref=uri, facts=facts.to_dict())
    return Storage(part, Platform(project="", stack=""))


def keys_of(cluster: Cluster, s3: S3) -> tuple[str, str]:
    """The store's key and its secret: this pod's own where it has them, else those of the Secret. Raises NotFound, AccessDenied."""
    if os.environ.get("EKIBEN_S3_SECRET") == s3.secret:
        return os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    operation = "read the keys of the store"
    return secret_of(cluster, s3.secret, "access_key_id", operation), secret_of(
        cluster, s3.secret, "secret_access_key", operation
    )


def secret_of(cluster: Cluster, name: str, key: str, operation: str) -> str:
    """What a Secret has under a key. Raises NotFound, which names both and holds nothing of it."""
    told = cluster.get("Secret", name, operation).get("data") or {}
    if key not in told:
        raise NotFound("kubernetes", operation, f"the Secret {name!r} has no {key!r}", "Mend it with `ekiben up`")
    return base64.b64decode(told[key]).decode()


def url_of(cluster: Cluster, s3: S3) -> str:
    """Where the store is from here."""
    if inside() or not (s3.outside_url or s3.service):
        return s3.url
    if s3.outside_url:
        return s3.outside_url
    name, _, port = s3.service.partition(":")
    address = str(cluster.get("Service", name, "find the store")["spec"]["clusterIP"])
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
