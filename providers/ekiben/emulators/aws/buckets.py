"""S3, where moto does not tell all that it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from moto.s3.models import S3Backend, s3_backends

from ekiben.emulators.aws.call import Answer, Call

__all__ = ["mend", "show_notifications"]


def show_notifications(moto: Callable[[Call], Answer], call: Call) -> Answer | None:
    """GetBucketNotificationConfiguration: moto keeps, obeys and does not show that events go to EventBridge."""
    if "notification" not in call.query:
        return None
    answer = moto(call)
    if answer.status == 200:
        bucket = s3_backends[call.account]["aws"].buckets.get(call.path.strip("/"))
        told = bucket and bucket.notification_configuration
        if told and told.event_bridge is not None:
            mark = b"<EventBridgeConfiguration></EventBridgeConfiguration></NotificationConfiguration>"
            body = answer.body.replace(b"</NotificationConfiguration>", mark)
            empty = b'<NotificationConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">' + mark
            return replace(answer, body=body if mark in body else b'<?xml version="1.0" encoding="UTF-8"?>' + empty)
    return answer


def mend() -> None:
    """Have moto delete a version in a bucket whose versioning is suspended: it takes the whole object, or fails."""
    plainly = S3Backend.delete_object

    def delete(
        self: S3Backend, bucket_name: str, key_name: str, version_id: str | None = None, bypass: bool = False
    ) -> tuple[bool, dict[str, Any]]:
        bucket: Any = self.get_bucket(bucket_name)
        suspended = version_id is not None and bucket.versioning_status == "Suspended"
        if suspended:
            bucket.versioning_status = "Enabled"
        try:
            return plainly(self, bucket_name, key_name, version_id, bypass)
        finally:
            if suspended:
                bucket.versioning_status = "Suspended"

    S3Backend.delete_object = delete  # type: ignore[method-assign]
