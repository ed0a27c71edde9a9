"""Buckets, and the settings of a bucket that are resources of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ekiben.emulators.aws.plugin.kind import Aws, Kind, Props, camel, found, pascal, tag_list, untagged
from ekiben.errors import AccessDenied, Unavailable
from ekiben.waiting import looks

__all__ = ["KINDS", "empty"]

NAMES = {
    "id": "ID", "sseAlgorithm": "SSEAlgorithm", "kmsMasterKeyId": "KMSMasterKeyID", "mfaDelete": "MFADelete",
}  # fmt: skip
EMPTIED_S = 60.0
# Of the bridge's lists of at most one, what the API has as lists goes by another name.
BATCH = 1000


def _make_bucket(aws: Aws, props: Props) -> str:
    s3, name = aws.client("s3"), props["bucket"]
    asked: dict[str, Any] = {"Bucket": name}
    if aws.region != "us-east-1":
        asked["CreateBucketConfiguration"] = {"LocationConstraint": aws.region}
    s3.create_bucket(**asked, ObjectLockEnabledForBucket=bool(props.get("objectLockEnabled")))
    _tag_bucket(aws, name, props)
    return str(name)


def _tag_bucket(aws: Aws, name: str, props: Props) -> None:
    if tags := aws.tags(props):
        aws.client("s3").put_bucket_tagging(Bucket=name, Tagging={"TagSet": tag_list(tags)})
    else:
        aws.client("s3").delete_bucket_tagging(Bucket=name)


def _read_bucket(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    s3 = aws.client("s3")
    if found(s3.head_bucket, Bucket=id) is None:
        return None
    tags = found(s3.get_bucket_tagging, Bucket=id) or {"TagSet": []}
    return {
        "bucket": id, "arn": f"arn:aws:s3:::{id}", "bucketDomainName": f"{id}.s3.amazonaws.com",
        "bucketRegionalDomainName": f"{id}.s3.{aws.region}.amazonaws.com", "bucketRegion": aws.region,
        "tags": untagged(tags["TagSet"]),
    }  # fmt: skip


def _delete_bucket(aws: Aws, id: str, props: Props) -> None:
    s3 = aws.client("s3")
    if not props.get("forceDestroy"):
        s3.delete_bucket(Bucket=id)
        return
    written: list[str] = []
    for _ in looks(EMPTIED_S, 0.2, 2.0):
        written = empty(s3, id) or written
        try:
            s3.delete_bucket(Bucket=id)
        except s3.exceptions.ClientError as error:
            # What ends only now has written meanwhile: AWS's own provider empties it again, too.
            if error.response["Error"]["Code"] != "BucketNotEmpty":
                raise
        else:
            return
    why = f"it is written to again and again, of late {', '.join(written[-3:])}"
    raise Unavailable("aws", f"delete the bucket {id!r}", why, "End what writes, and run it again")


def empty(s3: Any, bucket: str, at_once: int = BATCH) -> list[str]:
    """The keys that were there."""
    keys: list[str] = []
    more = True
    while more:
        # From the start each time: moto gives nothing after a version which is gone by then.
        page = s3.list_object_versions(Bucket=bucket, MaxKeys=at_once)
        more = page["IsTruncated"]
        there = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
        if objects := [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in there]:
            for refused in s3.delete_objects(Bucket=bucket, Delete={"Objects": objects}).get("Errors", ()):
                why = f"{refused['Key']!r} stays: {refused.get('Message', refused['Code'])}"
                raise AccessDenied(
                    "aws", f"empty the bucket {bucket!r}", why, "Take away what holds it, and run it again"
                )
        keys += [one["Key"] for one in objects]
    return keys


def _setting(
    token: str,
    *takes: str,
    put: Callable[[Any, str, Props], Any],
    get: Callable[[Any, str], Mapping[str, Any] | None],
    drop: Callable[[Any, str], Any],
    defaults: Mapping[str, Any] | None = None,
) -> Kind:
    """A setting of a bucket: its id is the bucket's name, and it goes with the bucket."""

    def make(aws: Aws, props: Props) -> str:
        put(aws.client("s3"), props["bucket"], props)
        return str(props["bucket"])

    def read(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
        told = get(aws.client("s3"), id)
        return None if told is None else {"bucket": id, **told}

    return Kind(
        type=f"aws:s3/{token[:1].lower()}{token[1:]}:{token}", takes=frozenset({"bucket", *takes}),
        fixed=frozenset({"bucket"}), defaults=defaults or {}, create=make, read=read,
        update=lambda aws, id, old, new: put(aws.client("s3"), id, new),
        delete=lambda aws, id, props: drop(aws.client("s3"), id),
        adopt=lambda id: {"bucket": id},
    )  # fmt: skip


def _versioning(s3: Any, bucket: str) -> dict[str, Any] | None:
    told = found(s3.get_bucket_versioning, Bucket=bucket)
    return {"versioningConfiguration": {"status": told["Status"]}} if told and "Status" in told else None


def _put_versioning(s3: Any, bucket: str, props: Props) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=pascal(props["versioningConfiguration"], NAMES))


def _suspend(s3: Any, bucket: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})


def _encryption(s3: Any, bucket: str) -> dict[str, Any] | None:
    told = found(s3.get_bucket_encryption, Bucket=bucket)
    return told and {"rules": camel(told["ServerSideEncryptionConfiguration"]["Rules"], NAMES)}


def _put_encryption(s3: Any, bucket: str, props: Props) -> None:
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": pascal(props["rules"], NAMES)})


def _ownership(s3: Any, bucket: str) -> dict[str, Any] | None:
    told = found(s3.get_bucket_ownership_controls, Bucket=bucket)
    return told and {"rule": camel(told["OwnershipControls"]["Rules"][0])}


def _put_ownership(s3: Any, bucket: str, props: Props) -> None:
    s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls={"Rules": [pascal(props["rule"])]})


BLOCKS = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")


def _access(s3: Any, bucket: str) -> dict[str, Any] | None:
    told = found(s3.get_public_access_block, Bucket=bucket)
    return told and dict(camel(told["PublicAccessBlockConfiguration"]))


def _put_access(s3: Any, bucket: str, props: Props) -> None:
    asked = pascal({name: bool(props.get(name)) for name in BLOCKS})
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=asked)


def _policy(s3: Any, bucket: str) -> dict[str, Any] | None:
    told = found(s3.get_bucket_policy, Bucket=bucket)
    return told and {"policy": told["Policy"]}


def _put_policy(s3: Any, bucket: str, props: Props) -> None:
    policy = props["policy"]
    s3.put_bucket_policy(Bucket=bucket, Policy=policy if isinstance(policy, str) else json.dumps(policy))


def _lifecycle(s3: Any, bucket: str) -> dict[str, Any] | None:
    told = found(s3.get_bucket_lifecycle_configuration, Bucket=bucket)
    return told and {"rules": camel(told["Rules"], NAMES | RULES)}


RULES = {"noncurrentVersionTransitions": "NoncurrentVersionTransitions"}


def _put_lifecycle(s3: Any, bucket: str, props: Props) -> None:
    rules = [{"Filter": {"Prefix": ""}, **rule} for rule in pascal(props["rules"], NAMES | RULES)]
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})


def _notification(s3: Any, bucket: str) -> dict[str, Any] | None:
    told = found(s3.get_bucket_notification_configuration, Bucket=bucket)
    return None if told is None or "EventBridgeConfiguration" not in told else {"eventbridge": True}


def _put_notification(s3: Any, bucket: str, props: Props) -> None:
    wanted: dict[str, Any] = {"EventBridgeConfiguration": {}} if props.get("eventbridge") else {}
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=wanted)


KINDS = [
    Kind(
        type="aws:s3/bucket:Bucket",
        takes=frozenset({"bucket", "forceDestroy", "objectLockEnabled", "tags"}),
        fixed=frozenset({"bucket", "objectLockEnabled"}),
        named="bucket",
        defaults={"forceDestroy": False},
        outputs=("arn", "bucketDomainName", "bucketRegionalDomainName", "bucketRegion"),
        tagged=True,
        create=_make_bucket,
        read=_read_bucket,
        update=lambda aws, id, old, new: _tag_bucket(aws, id, new),
        delete=_delete_bucket,
        adopt=lambda id: {"bucket": id},
    ),
    _setting("BucketVersioning", "versioningConfiguration", put=_put_versioning, get=_versioning, drop=_suspend),
    _setting(
        "BucketServerSideEncryptionConfiguration", "rules", put=_put_encryption, get=_encryption,
        drop=lambda s3, bucket: s3.delete_bucket_encryption(Bucket=bucket),
    ),
    _setting(
        "BucketOwnershipControls", "rule", put=_put_ownership, get=_ownership,
        drop=lambda s3, bucket: s3.delete_bucket_ownership_controls(Bucket=bucket),
    ),
    _setting(
        "BucketPublicAccessBlock", *BLOCKS, put=_put_access, get=_access,
        drop=lambda s3, bucket: s3.delete_public_access_block(Bucket=bucket),
    ),
    _setting(
        "BucketPolicy", "policy", put=_put_policy, get=_policy,
        drop=lambda s3, bucket: s3.delete_bucket_policy(Bucket=bucket),
    ),
    _setting(
        "BucketLifecycleConfiguration", "rules", put=_put_lifecycle, get=_lifecycle,
        drop=lambda s3, bucket: s3.delete_bucket_lifecycle(Bucket=bucket),
    ),
    _setting(
        "BucketNotification", "eventbridge", put=_put_notification, get=_notification,
        drop=lambda s3, bucket: _put_notification(s3, bucket, {}),
    ),
]  # fmt: skip
