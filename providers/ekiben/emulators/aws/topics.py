"""What other services publish to SNS topics, as far as the topic's policy and that of its key let them."""

from __future__ import annotations

import json
import logging

from moto.kms.models import kms_backends
from moto.sns.models import sns_backends

from ekiben.emulators.aws.policies import service_may

__all__ = ["publish"]

logger = logging.getLogger("ekiben.emulators.aws")


def publish(arn: str, message: str, *, service: str, source_arn: str, subject: str = "") -> None:
    """Publish for a service on behalf of `source_arn`. What may not be published is in the emulator's log."""
    _, _, _, region, account, _ = arn.split(":", 5)
    topic = sns_backends[account][region].topics.get(arn)
    asking = {"aws:SourceArn": source_arn, "aws:SourceAccount": source_arn.split(":")[4], "AWS:SourceOwner": account}
    if topic is None:
        why = "there is no such topic"
    elif not service_may(json.loads(topic.policy), service, "sns:Publish", arn, asking):
        why = "the topic's policy does not allow it"
    elif topic.kms_master_key_id and not _may_encrypt(str(topic.kms_master_key_id), account, region, service, asking):
        why = "the policy of the topic's key does not let it encrypt"
    else:
        try:
            topic.publish(message, subject=subject[:100] or None)
        except Exception:
            logger.exception("publishing to %s", arn)
        return
    logger.warning("%s does not publish to %s for %s: %s", service, arn, source_arn, why)


def _may_encrypt(key: str, account: str, region: str, service: str, asking: dict[str, str]) -> bool:
    """Not with AWS's own key for SNS, whose policy knows no other service."""
    backend = kms_backends[account][region]
    id = backend.any_id_to_key_id(key)
    if key == "alias/aws/sns" or id not in backend.keys:
        return False
    if service == "events.amazonaws.com":  # which does not say for whom (the SNS guide, "Managing encryption keys")
        asking = {}
    policy = json.loads(backend.get_key_policy(id))
    return all(service_may(policy, service, f"kms:{action}", "*", asking) for action in ("GenerateDataKey", "Decrypt"))
