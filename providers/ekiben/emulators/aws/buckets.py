"""S3, where moto does not tell all that it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from moto.s3.models import s3_backends

from ekiben.emulators.aws.call import Answer, Call

__all__ = ["show_notifications"]


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
