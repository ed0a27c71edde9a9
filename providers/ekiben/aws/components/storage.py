"""Storage: a bucket that is private, encrypted and versioned, and tells EventBridge of its objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pulumi
import pulumi_aws as aws

from ekiben import components
from ekiben.aws import SUPPORT, prices
from ekiben.aws.components.policies import Asked, Known, Statement, allow, asking, document, like, tls_only
from ekiben.aws.components.program import Aws, current
from ekiben.components import Component
from ekiben.cost import Cost
from ekiben.errors import SpecError
from ekiben.packing import Bundle
from ekiben.programs import facts

__all__ = ["Storage", "key_statements", "read_statements", "storage_of", "write_statements"]

KEY_ARN = re.compile(r"arn:aws[\w-]*:kms:[\w-]+:\d+:key/[\w-]+")
UPLOAD_DAYS = 7
MARK_DAYS = 30


class Storage(Aws, components.Storage):
    """bucket: the S3 bucket. settings: those of its properties that are resources of their own."""

    support = SUPPORT
    bucket: aws.s3.Bucket
    _library: pulumi.Output[str] | None = None

    def create(self) -> None:
        if self.spec.kms_key and not KEY_ARN.fullmatch(self.spec.kms_key):
            raise SpecError(
                f"StorageSpec of {self.name!r}: kms_key={self.spec.kms_key!r} is no ARN of a key. Policies do not know "
                "aliases. Give arn:aws:kms:REGION:ACCOUNT:key/ID."
            )
        retain = self.spec.retain
        # `ekiben inventory` lists what is retained, and does not take it for a leftover.
        whose = {**self.tags, "ekiben:retained": "true"} if retain else self.tags
        self.bucket = aws.s3.Bucket(self.name, force_destroy=not retain, tags=whose, opts=self.opts(retain=retain))
        name, opts = self.bucket.bucket, self.opts(retain=retain)
        private = aws.s3.BucketPublicAccessBlock(
            self.name,
            bucket=name,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=opts,
        )
        owned = aws.s3.BucketOwnershipControls(
            self.name, bucket=name, rule={"object_ownership": "BucketOwnerEnforced"}, opts=opts
        )
        # One change of a bucket's settings at a time: S3 refuses a second one while the first goes on.
        policy = aws.s3.BucketPolicy(
            self.name,
            bucket=name,
            policy=self.bucket.arn.apply(lambda arn: document([tls_only("s3:*", [arn, f"{arn}/*"])])),
            opts=self.opts(retain=retain, depends_on=[private, owned]),
        )
        encrypted = aws.s3.BucketServerSideEncryptionConfiguration(
            self.name, bucket=name, rules=[encryption(self.spec.kms_key)], opts=opts
        )
        versioned = self.spec.versioning != "off"
        settings: list[pulumi.Resource] = [policy, encrypted]
        if versioned:
            settings.append(
                aws.s3.BucketVersioning(
                    self.name, bucket=name, versioning_configuration={"status": "Enabled"}, opts=opts
                )
            )
        keep_days = self.spec.keep_versions_days if versioned else 0
        aws.s3.BucketLifecycleConfiguration(
            self.name,
            bucket=name,
            rules=lifecycle(self.spec.expire_days, keep_days),
            opts=self.opts(retain=retain, depends_on=settings[2:]),
        )
        settings.append(aws.s3.BucketNotification(self.name, bucket=name, eventbridge=True, opts=opts))
        self.settings = settings
        self.ref = self.bucket.arn
        self.facts = facts(region=self.region, uri=self.uri, kms_key=self.spec.kms_key)
        current().storages[self.name] = self

    @property
    def uri(self) -> pulumi.Output[str]:
        return pulumi.Output.concat("s3://", self.bucket.bucket)

    def library(self, bundle: Bundle) -> pulumi.Output[str]:
        """The s3:// URI of Ekiben's own archive for jobs: one object for all trainings of this storage."""
        if self._library is None:
            self._library = self.upload(bundle, self, "-library")
        return self._library

    def cost(self) -> Cost:
        return prices.bucket()

    def needs(self) -> Asked:
        return self.statements("", write=True)

    def statements(self, *prefixes: str, write: bool) -> Asked:
        """What it takes to read (and to write) what is below these prefixes; all of the bucket with the prefix ""."""
        key = self.spec.kms_key
        made = write_statements if write else read_statements
        return asking(lambda arn: [*made(arn, prefixes), *key_statements(key, write=write)], self.arn)

    @property
    def arn(self) -> Known:
        return Known(self.bucket.arn, like("s3", self.name))


def read_statements(bucket_arn: str, prefixes: Sequence[str]) -> list[Statement]:
    """Read and list the objects whose keys begin so."""
    objects = [f"{bucket_arn}/{prefix}*" for prefix in prefixes]
    return [_list(bucket_arn, prefixes), allow(["s3:GetObject"], objects)]


def write_statements(bucket_arn: str, prefixes: Sequence[str]) -> list[Statement]:
    """Read, list, write and delete the objects whose keys begin so. Older versions stay."""
    objects = [f"{bucket_arn}/{prefix}*" for prefix in prefixes]
    actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    return [_list(bucket_arn, prefixes), allow(actions, objects)]


def key_statements(kms_key: str, *, write: bool) -> list[Statement]:
    """Use a customer's key, given by its ARN; nothing without one. Multipart uploads decrypt, too."""
    if not kms_key:
        return []
    return [allow(["kms:Decrypt", *(["kms:GenerateDataKey"] if write else [])], [kms_key])]


def _list(bucket_arn: str, prefixes: Sequence[str]) -> Statement:
    """List a bucket, which is also what makes S3 tell that an object is not there, instead of that it may not be read. Such a
    request has no prefix, therefore IfExists.
    """
    only = {"StringLikeIfExists": {"s3:prefix": [f"{prefix}*" for prefix in prefixes]}}
    return allow(["s3:ListBucket"], [bucket_arn], None if "" in prefixes else only)


def encryption(kms_key: str) -> dict[str, Any]:
    """The rule of a bucket's encryption: by the customer's key, or by S3's own."""
    if not kms_key:
        return {"apply_server_side_encryption_by_default": {"sse_algorithm": "AES256"}}
    by = {"sse_algorithm": "aws:kms", "kms_master_key_id": kms_key}
    return {"apply_server_side_encryption_by_default": by, "bucket_key_enabled": True}


def lifecycle(expire_days: dict[str, int], keep_versions_days: int) -> list[dict[str, Any]]:
    """The rules of a bucket's lifecycle: what is left of uploads, old versions, and what the spec lets expire."""
    tidy: dict[str, Any] = {
        "id": "tidy",
        "status": "Enabled",
        "filter": {"prefix": ""},
        "abort_incomplete_multipart_upload": {"days_after_initiation": UPLOAD_DAYS},
    }
    if keep_versions_days:
        tidy["noncurrent_version_expiration"] = {"noncurrent_days": keep_versions_days}
        # A mark of a deletion that hides nothing any more.
        tidy["expiration"] = {"expired_object_delete_marker": True}
    # Of events that functions have had; none comes again after the two weeks that a dead letter is kept.
    marks = {"id": "marks", "status": "Enabled", "filter": {"prefix": "deliveries/"}, "expiration": {"days": MARK_DAYS}}
    rules = [tidy, marks]
    for number, (prefix, days) in enumerate(sorted(expire_days.items()), 1):
        rules.append(
            {"id": f"expire-{number}", "status": "Enabled", "filter": {"prefix": prefix}, "expiration": {"days": days}}
        )
    return rules


def storage_of(component: Component[Any], storage: components.Storage) -> Storage:
    """`storage`, when it is one of AWS. Raises SpecError, naming both."""
    if not isinstance(storage, Storage):
        raise SpecError(
            f"The {component.kind} {component.name!r} is on aws and its storage {storage.name!r} is on {storage.provider}: "
            "aws reads and writes buckets of its own only. Give it a storage of aws."
        )
    return storage
