"""Objects in buckets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ekiben.emulators.aws.plugin.kind import Aws, Kind, Props, found, tag_list, untagged

__all__ = ["KINDS"]


def _content(props: Props) -> bytes:
    if "source" not in props:
        return str(props.get("content", "")).encode()
    asset = props["source"]
    return Path(str(asset["path"])).read_bytes() if "path" in asset else str(asset["text"]).encode()


def _put(aws: Aws, props: Props) -> str:
    bucket, key = props["bucket"], props["key"]
    s3 = aws.client("s3")
    typed = {"ContentType": props["contentType"]} if "contentType" in props else {}
    s3.put_object(Bucket=bucket, Key=key, Body=_content(props), **typed)
    s3.put_object_tagging(Bucket=bucket, Key=key, Tagging={"TagSet": tag_list(aws.tags(props))})
    return f"{bucket}/{key}"


def _read(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    bucket, _, key = id.partition("/")
    told = found(aws.client("s3").head_object, Bucket=bucket, Key=key)
    if told is None:
        return None
    tags = aws.client("s3").get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
    return {
        "bucket": bucket, "key": key, "arn": f"arn:aws:s3:::{id}", "etag": told["ETag"].strip('"'),
        "versionId": told.get("VersionId", ""), "contentType": told["ContentType"], "tags": untagged(tags),
    }  # fmt: skip


def _update(aws: Aws, id: str, old: Props, new: Props) -> None:
    _put(aws, new)


def _delete(aws: Aws, id: str, props: Props) -> None:
    bucket, _, key = id.partition("/")
    aws.client("s3").delete_object(Bucket=bucket, Key=key)


KINDS = [
    Kind(
        type="aws:s3/bucketObjectv2:BucketObjectv2",
        takes=frozenset({"bucket", "key", "source", "content", "sourceHash", "contentType", "tags"}),
        fixed=frozenset({"bucket", "key"}), computed=frozenset({"contentType"}), tagged=True,
        outputs=("arn", "etag", "versionId"), renewed=("etag", "versionId"),
        create=_put, read=_read, update=_update, delete=_delete,
        adopt=lambda id: {"bucket": id.partition("/")[0], "key": id.partition("/")[2]},
    ),
]  # fmt: skip
