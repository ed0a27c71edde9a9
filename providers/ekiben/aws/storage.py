"""Storage on S3: `ekiben.storage` with the region of the part, and credentials from wherever boto3 finds them."""

from __future__ import annotations

import os
from typing import Any

from ekiben import storage
from ekiben.aws.facts import StorageFacts, facts_of
from ekiben.errors import AccessDenied
from ekiben.records import Part, Platform

__all__ = ["Storage", "open_storage"]

# With one of these obstore finds its credentials by itself, without boto3: in functions, containers and on CI.
OWN_WAYS = ("AWS_ACCESS_KEY_ID", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_WEB_IDENTITY_TOKEN_FILE")


class Storage(storage.Storage):
    """The objects of a bucket."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        self._region = facts_of(part, StorageFacts).region

    def _options(self) -> dict[str, Any]:
        found: dict[str, Any] = {"region": self._region}
        if not any(os.environ.get(name) for name in OWN_WAYS):
            found["credential_provider"] = _provider(self._region)
        return found


def open_storage(uri: str, region: str) -> Storage:
    """The storage at s3://BUCKET or s3://BUCKET/PREFIX, which calls nothing yet. Raises SpecError for another URI."""
    part = Part(name="", kind="storage", provider="aws", ref=uri, facts={"uri": uri, "region": region})
    return Storage(part, Platform(project="", stack=""))


def _provider(region: str) -> Any:
    """A profile, single sign-on, a program: what boto3 knows and obstore does not."""
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return Boto3CredentialProvider(boto3.session.Session(region_name=region))
    except ValueError as error:
        raise AccessDenied(
            "aws", "open the storage", "no credentials were found",
            "Check the credentials in the environment (`aws sts get-caller-identity` shows whose they are)",
        ) from error  # fmt: skip
