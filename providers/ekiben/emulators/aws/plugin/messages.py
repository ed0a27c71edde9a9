"""Topics and queues."""

from __future__ import annotations

import json
from typing import Any

from ekiben.emulators.aws.plugin.kind import Aws, Kind, Props, found, retag, tag_list, untagged

__all__ = ["KINDS"]

# Of a queue: the program's name, the API's, and the provider's default.
QUEUE = {
    "delaySeconds": ("DelaySeconds", 0),
    "kmsMasterKeyId": ("KmsMasterKeyId", ""),
    "maxMessageSize": ("MaximumMessageSize", 1048576),
    "messageRetentionSeconds": ("MessageRetentionPeriod", 345600),
    "receiveWaitTimeSeconds": ("ReceiveMessageWaitTimeSeconds", 0),
    "redrivePolicy": ("RedrivePolicy", ""),
    "sqsManagedSseEnabled": ("SqsManagedSseEnabled", True),
    "visibilityTimeoutSeconds": ("VisibilityTimeout", 30),
}
# What the account of a topic may do as long as nobody says otherwise.
OWNERS = (
    "SNS:GetTopicAttributes", "SNS:SetTopicAttributes", "SNS:AddPermission", "SNS:RemovePermission", "SNS:DeleteTopic",
    "SNS:Subscribe", "SNS:ListSubscriptionsByTopic", "SNS:Publish",
)  # fmt: skip
# Of a subscription: the program's name and the API's.
SUBSCRIPTION = {
    "filterPolicy": "FilterPolicy", "filterPolicyScope": "FilterPolicyScope", "rawMessageDelivery": "RawMessageDelivery",
    "redrivePolicy": "RedrivePolicy",
}  # fmt: skip


def _word(value: Any) -> str:
    """A value as attributes have it."""
    return str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else json.dumps(value)


def _value(text: str, like: Any) -> Any:
    if isinstance(like, bool):
        return text == "true"
    return int(text) if isinstance(like, int) else text


def _make_topic(aws: Aws, props: Props) -> str:
    attributes = {"DisplayName": props.get("displayName", ""), "KmsMasterKeyId": props.get("kmsMasterKeyId", "")}
    if props.get("policy"):
        attributes["Policy"] = props["policy"]
    made = aws.client("sns").create_topic(
        Name=props["name"], Attributes={name: value for name, value in attributes.items() if value}, Tags=tag_list(aws.tags(props))
    )  # fmt: skip
    return str(made["TopicArn"])


def _read_topic(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    sns = aws.client("sns")
    told = found(sns.get_topic_attributes, TopicArn=id)
    if told is None:
        return None
    attributes = told["Attributes"]
    return {
        "name": id.rpartition(":")[2], "arn": id, "owner": attributes["Owner"], "displayName": attributes.get("DisplayName", ""),
        "kmsMasterKeyId": attributes.get("KmsMasterKeyId", ""), "policy": attributes.get("Policy", ""),
        "tags": untagged(sns.list_tags_for_resource(ResourceArn=id)["Tags"]),
    }  # fmt: skip


def _update_topic(aws: Aws, id: str, old: Props, new: Props) -> None:
    sns = aws.client("sns")
    for name, attribute in (("displayName", "DisplayName"), ("kmsMasterKeyId", "KmsMasterKeyId"), ("policy", "Policy")):
        if old.get(name, "") != new.get(name, "") and (name in new or name != "policy"):
            sns.set_topic_attributes(TopicArn=id, AttributeName=attribute, AttributeValue=new.get(name, ""))
    retag(
        old.get("tagsAll", {}), aws.tags(new),
        lambda tags: sns.tag_resource(ResourceArn=id, Tags=tag_list(tags)),
        lambda keys: sns.untag_resource(ResourceArn=id, TagKeys=keys),
    )  # fmt: skip


def _put_topic_policy(aws: Aws, props: Props) -> str:
    aws.client("sns").set_topic_attributes(
        TopicArn=props["arn"], AttributeName="Policy", AttributeValue=_word(props["policy"])
    )
    return str(props["arn"])


def _read_topic_policy(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    told = found(aws.client("sns").get_topic_attributes, TopicArn=id)
    return told and {"arn": id, "policy": told["Attributes"]["Policy"], "owner": told["Attributes"]["Owner"]}


def _update_topic_policy(aws: Aws, id: str, old: Props, new: Props) -> None:
    _put_topic_policy(aws, new)


def _drop_topic_policy(aws: Aws, id: str, props: Props) -> None:
    """The policy is SNS's own again: only the topic's account may use it."""
    sns = aws.client("sns")
    told = found(sns.get_topic_attributes, TopicArn=id)
    if told is None:
        return
    owner = {"StringEquals": {"AWS:SourceOwner": told["Attributes"]["Owner"]}}
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": "*"},
        "Action": list(OWNERS),
        "Resource": id,
        "Condition": owner,
    }
    policy = json.dumps({"Version": "2008-10-17", "Id": "__default_policy_ID", "Statement": [statement]})
    sns.set_topic_attributes(TopicArn=id, AttributeName="Policy", AttributeValue=policy)


def _subscribe(aws: Aws, props: Props) -> str:
    made = aws.client("sns").subscribe(
        TopicArn=props["topic"], Protocol=props["protocol"], Endpoint=props["endpoint"], ReturnSubscriptionArn=True,
        Attributes={theirs: _word(props[ours]) for ours, theirs in SUBSCRIPTION.items() if props.get(ours)},
    )  # fmt: skip
    return str(made["SubscriptionArn"])


def _read_subscription(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    told = found(aws.client("sns").get_subscription_attributes, SubscriptionArn=id)
    if told is None:
        return None
    attributes = told["Attributes"]
    return {
        "topic": attributes["TopicArn"], "protocol": attributes["Protocol"], "endpoint": attributes["Endpoint"], "arn": id,
        "ownerId": attributes["Owner"], "pendingConfirmation": attributes["PendingConfirmation"] == "true",
        "filterPolicy": attributes.get("FilterPolicy", ""), "redrivePolicy": attributes.get("RedrivePolicy", ""),
        "rawMessageDelivery": attributes.get("RawMessageDelivery") == "true",
        "filterPolicyScope": attributes.get("FilterPolicyScope", "MessageAttributes"),
    }  # fmt: skip


def _update_subscription(aws: Aws, id: str, old: Props, new: Props) -> None:
    for ours, theirs in SUBSCRIPTION.items():
        if old.get(ours) != new.get(ours):
            aws.client("sns").set_subscription_attributes(
                SubscriptionArn=id, AttributeName=theirs, AttributeValue=_word(new.get(ours, ""))
            )


def _make_queue(aws: Aws, props: Props) -> str:
    attributes = {
        theirs: _word(props[ours]) for ours, (theirs, _) in QUEUE.items() if props.get(ours) not in (None, "")
    }
    if props.get("fifoQueue"):
        attributes["FifoQueue"] = "true"
    made = aws.client("sqs").create_queue(QueueName=props["name"], Attributes=attributes, tags=aws.tags(props))
    return str(made["QueueUrl"])


def _read_queue(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    sqs = aws.client("sqs")
    told = found(sqs.get_queue_attributes, QueueUrl=id, AttributeNames=["All"])
    if told is None:
        return None
    attributes = told["Attributes"]
    there = {
        ours: _value(attributes[theirs], default) for ours, (theirs, default) in QUEUE.items() if theirs in attributes
    }
    arn = attributes["QueueArn"]
    fifo = {"fifoQueue": True} if attributes.get("FifoQueue") == "true" else {}
    tags = sqs.list_queue_tags(QueueUrl=id).get("Tags", {})
    return {**there, **fifo, "name": arn.rpartition(":")[2], "arn": arn, "url": id, "tags": tags}


def _update_queue(aws: Aws, id: str, old: Props, new: Props) -> None:
    sqs = aws.client("sqs")
    changed = {
        theirs: _word(new.get(ours, default))
        for ours, (theirs, default) in QUEUE.items()
        if new.get(ours, default) != old.get(ours, default)
    }
    if changed:
        sqs.set_queue_attributes(QueueUrl=id, Attributes=changed)
    retag(
        old.get("tagsAll", {}), aws.tags(new),
        lambda tags: sqs.tag_queue(QueueUrl=id, Tags=tags), lambda keys: sqs.untag_queue(QueueUrl=id, TagKeys=keys),
    )  # fmt: skip


def _put_queue_policy(aws: Aws, props: Props) -> str:
    policy = props["policy"]
    aws.client("sqs").set_queue_attributes(
        QueueUrl=props["queueUrl"], Attributes={"Policy": policy if isinstance(policy, str) else json.dumps(policy)}
    )
    return str(props["queueUrl"])


def _read_queue_policy(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    told = found(aws.client("sqs").get_queue_attributes, QueueUrl=id, AttributeNames=["Policy"])
    policy = (told or {}).get("Attributes", {}).get("Policy")
    return {"queueUrl": id, "policy": policy} if policy else None


def _drop_queue_policy(aws: Aws, id: str, props: Props) -> None:
    aws.client("sqs").set_queue_attributes(QueueUrl=id, Attributes={"Policy": ""})


def _update_queue_policy(aws: Aws, id: str, old: Props, new: Props) -> None:
    _put_queue_policy(aws, new)


KINDS = [
    Kind(
        type="aws:sns/topic:Topic",
        computed=frozenset({"policy"}),
        takes=frozenset({"name", "displayName", "kmsMasterKeyId", "policy", "tags"}), fixed=frozenset({"name"}),
        named="name", name_chars=256, tagged=True, outputs=("arn", "owner"),
        create=_make_topic, read=_read_topic, update=_update_topic,
        delete=lambda aws, id, props: aws.client("sns").delete_topic(TopicArn=id),
    ),
    Kind(
        type="aws:sns/topicPolicy:TopicPolicy",
        takes=frozenset({"arn", "policy"}), fixed=frozenset({"arn"}), outputs=("owner",),
        create=_put_topic_policy, read=_read_topic_policy, update=_update_topic_policy, delete=_drop_topic_policy,
        adopt=lambda id: {"arn": id},
    ),
    Kind(
        type="aws:sns/topicSubscription:TopicSubscription",
        takes=frozenset({"topic", "protocol", "endpoint", *SUBSCRIPTION}),
        fixed=frozenset({"topic", "protocol", "endpoint"}),
        defaults={"rawMessageDelivery": False}, outputs=("arn", "ownerId", "pendingConfirmation"),
        create=_subscribe, read=_read_subscription, update=_update_subscription,
        delete=lambda aws, id, props: aws.client("sns").unsubscribe(SubscriptionArn=id),
    ),
    Kind(
        type="aws:sqs/queue:Queue",
        computed=frozenset({"sqsManagedSseEnabled"}),
        takes=frozenset({"name", "fifoQueue", "tags", *QUEUE}), fixed=frozenset({"name", "fifoQueue"}),
        named="name", name_chars=80, tagged=True, outputs=("arn", "url"),
        defaults={ours: default for ours, (_, default) in QUEUE.items() if default != "" and ours != "sqsManagedSseEnabled"},
        create=_make_queue, read=_read_queue, update=_update_queue,
        delete=lambda aws, id, props: aws.client("sqs").delete_queue(QueueUrl=id),
    ),
    Kind(
        type="aws:sqs/queuePolicy:QueuePolicy",
        takes=frozenset({"queueUrl", "policy"}), fixed=frozenset({"queueUrl"}),
        create=_put_queue_policy, read=_read_queue_policy, update=_update_queue_policy, delete=_drop_queue_policy,
        adopt=lambda id: {"queueUrl": id},
    ),
]  # fmt: skip
