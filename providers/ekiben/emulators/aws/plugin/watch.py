"""Log groups, alarms, event rules and their targets."""

from __future__ import annotations

from typing import Any

from ekiben.emulators.aws.plugin.kind import Aws, Kind, Props, camel, found, pascal, retag, tag_list, untagged, whole

__all__ = ["KINDS"]

# Of an alarm: the program's name and the API's, where they differ.
ALARM = {
    "name": "AlarmName", "alarmDescription": "AlarmDescription", "comparisonOperator": "ComparisonOperator",
    "evaluationPeriods": "EvaluationPeriods", "metricName": "MetricName", "namespace": "Namespace", "period": "Period",
    "statistic": "Statistic", "extendedStatistic": "ExtendedStatistic", "threshold": "Threshold",
    "datapointsToAlarm": "DatapointsToAlarm", "treatMissingData": "TreatMissingData", "unit": "Unit",
    "actionsEnabled": "ActionsEnabled", "alarmActions": "AlarmActions", "okActions": "OKActions",
    "insufficientDataActions": "InsufficientDataActions",
}  # fmt: skip
TARGET = {"deadLetterConfig": "DeadLetterConfig", "inputPaths": "InputPathsMap"}


def _make_group(aws: Aws, props: Props) -> str:
    asked = whole(props, "kmsKeyId", "logGroupClass")
    tags = aws.tags(props)
    aws.client("logs").create_log_group(logGroupName=props["name"], **camel(asked), **({"tags": tags} if tags else {}))
    _retain(aws, props["name"], props)
    return str(props["name"])


def _retain(aws: Aws, name: str, props: Props) -> None:
    logs, days = aws.client("logs"), props.get("retentionInDays", 0)
    if days:
        logs.put_retention_policy(logGroupName=name, retentionInDays=days)
    else:
        logs.delete_retention_policy(logGroupName=name)


def _read_group(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    logs = aws.client("logs")
    told = logs.describe_log_groups(logGroupNamePrefix=id)["logGroups"]
    group = next((one for one in told if one["logGroupName"] == id), None)
    if group is None:
        return None
    arn = group["arn"].removesuffix(":*")
    return {
        "name": id, "arn": arn, "retentionInDays": group.get("retentionInDays", 0), "kmsKeyId": group.get("kmsKeyId", ""),
        "logGroupClass": group.get("logGroupClass", "STANDARD"),
        "tags": logs.list_tags_log_group(logGroupName=id)["tags"],
    }  # fmt: skip


def _update_group(aws: Aws, id: str, old: Props, new: Props) -> None:
    logs = aws.client("logs")
    _retain(aws, id, new)
    retag(
        old.get("tagsAll", {}), aws.tags(new),
        lambda tags: logs.tag_log_group(logGroupName=id, tags=tags),
        lambda keys: logs.untag_log_group(logGroupName=id, tags=keys),
    )  # fmt: skip


def _put_alarm(aws: Aws, props: Props) -> str:
    asked = {theirs: props[ours] for ours, theirs in ALARM.items() if ours in props}
    if "dimensions" in props:
        asked["Dimensions"] = [{"Name": name, "Value": value} for name, value in props["dimensions"].items()]
    if "metricQueries" in props:
        asked["Metrics"] = [_query(one) for one in props["metricQueries"]]
    aws.client("cloudwatch").put_metric_alarm(**asked, Tags=tag_list(aws.tags(props)))
    return str(props["name"])


def _query(one: Props) -> dict[str, Any]:
    """One of the metrics and expressions of an alarm."""
    made = whole(one, "id", "expression", "label", "returnData", "period")
    if "metric" in one:
        asked = one["metric"]
        where = [{"Name": name, "Value": value} for name, value in asked.get("dimensions", {}).items()]
        metric = {**whole(asked, "namespace", "metricName"), "Dimensions": where}
        made["MetricStat"] = {"Metric": metric, **whole(asked, "period", "stat", "unit")}
    return made


def _read_query(one: Props) -> dict[str, Any]:
    """The other way round."""
    made: dict[str, Any] = camel({key: value for key, value in one.items() if key != "MetricStat"})
    if stat := one.get("MetricStat"):
        metric = stat["Metric"]
        made["metric"] = {
            **camel({key: value for key, value in {**stat, **metric}.items() if key not in ("Metric", "Dimensions")}),
            "dimensions": {each["Name"]: each["Value"] for each in metric.get("Dimensions", ())},
        }  # fmt: skip
    return made


def _read_alarm(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    watch = aws.client("cloudwatch")
    told = watch.describe_alarms(AlarmNames=[id])["MetricAlarms"]
    if not told:
        return None
    alarm = told[0]
    there = {ours: alarm[theirs] for ours, theirs in ALARM.items() if theirs in alarm}
    return {
        **{name: int(value) if isinstance(value, float) and value.is_integer() else value for name, value in there.items()},
        **({"metricQueries": [_read_query(one) for one in alarm["Metrics"]]} if alarm.get("Metrics") else {}),
        "arn": alarm["AlarmArn"], "dimensions": {one["Name"]: one["Value"] for one in alarm.get("Dimensions", ())},
        "tags": untagged(watch.list_tags_for_resource(ResourceARN=alarm["AlarmArn"])["Tags"]),
    }  # fmt: skip


def _update_alarm(aws: Aws, id: str, old: Props, new: Props) -> None:
    _put_alarm(aws, new)  # which leaves the tags of one that is there
    watch, arn = aws.client("cloudwatch"), old["arn"]
    retag(
        old.get("tagsAll", {}), aws.tags(new),
        lambda tags: watch.tag_resource(ResourceARN=arn, Tags=tag_list(tags)),
        lambda keys: watch.untag_resource(ResourceARN=arn, TagKeys=keys),
    )  # fmt: skip


def _make_bus(aws: Aws, props: Props) -> str:
    aws.client("events").create_event_bus(
        Name=props["name"], Tags=tag_list(aws.tags(props)), **whole(props, "description", "kmsKeyIdentifier")
    )
    return str(props["name"])


def _read_bus(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    events = aws.client("events")
    told = found(events.describe_event_bus, Name=id)
    if told is None:
        return None
    tags = untagged(events.list_tags_for_resource(ResourceARN=told["Arn"])["Tags"])
    return {
        "name": id,
        "arn": told["Arn"],
        "tags": tags,
        **camel(whole(camel(told), "description", "kmsKeyIdentifier")),
    }


def _update_bus(aws: Aws, id: str, old: Props, new: Props) -> None:
    events, arn = aws.client("events"), old["arn"]
    retag(
        old.get("tagsAll", {}), aws.tags(new),
        lambda tags: events.tag_resource(ResourceARN=arn, Tags=tag_list(tags)),
        lambda keys: events.untag_resource(ResourceARN=arn, TagKeys=keys),
    )  # fmt: skip


def _bus(props: Props) -> dict[str, str]:
    return {"EventBusName": props["eventBusName"]} if props.get("eventBusName", "default") != "default" else {}


def _rule_id(props: Props, *names: str) -> str:
    """The bus is a part of the id where it is not the default one."""
    return "/".join([*_bus(props).values(), *(str(props[name]) for name in names)])


def _put_rule(aws: Aws, props: Props) -> str:
    tags = aws.tags(props)
    aws.client("events").put_rule(
        Name=props["name"], **_bus(props),
        **whole(props, "eventPattern", "scheduleExpression", "description", "roleArn", "state"),
        **({"Tags": tag_list(tags)} if tags else {}),
    )  # fmt: skip
    return _rule_id(props, "name")


def _named(id: str) -> dict[str, Any]:
    bus, _, name = id.rpartition("/")
    return {"name": name, **({"eventBusName": bus} if bus else {})}


def _read_rule(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    events, named = aws.client("events"), _named(id)
    told = found(events.describe_rule, Name=named["name"], **_bus(named))
    if told is None:
        return None
    there = camel(whole(camel(told), "eventPattern", "scheduleExpression", "description", "roleArn", "state"))
    tags = untagged(events.list_tags_for_resource(ResourceARN=told["Arn"])["Tags"])
    return {**there, "eventBusName": "default", **named, "arn": told["Arn"], "tags": tags}


def _update_rule(aws: Aws, id: str, old: Props, new: Props) -> None:
    _put_rule(aws, {**new, "tags": {}})
    events, arn = aws.client("events"), old["arn"]
    retag(
        old.get("tagsAll", {}), aws.tags(new),
        lambda tags: events.tag_resource(ResourceARN=arn, Tags=tag_list(tags)),
        lambda keys: events.untag_resource(ResourceARN=arn, TagKeys=keys),
    )  # fmt: skip


def _put_target(aws: Aws, props: Props) -> str:
    target = {
        "Id": props["targetId"],
        **whole(props, "arn", "input", "inputPath", "roleArn"),
        **pascal(
            {key: props[key] for key in ("retryPolicy", "deadLetterConfig", "inputTransformer") if key in props},
            TARGET, ("inputPaths",),
        ),
    }  # fmt: skip
    told = aws.client("events").put_targets(Rule=props["rule"], **_bus(props), Targets=[target])
    if told.get("FailedEntryCount"):
        raise ValueError(
            f"aws: cannot put the target {props['targetId']!r}: {told['FailedEntries'][0]['ErrorMessage']}"
        )
    return _rule_id(props, "rule") + "-" + str(props["targetId"])


def _read_target(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    told = found(aws.client("events").list_targets_by_rule, Rule=props["rule"], **_bus(props))
    target = next((one for one in (told or {}).get("Targets", ()) if one["Id"] == props["targetId"]), None)
    if target is None:
        return None
    there = camel(target, TARGET, ("inputPaths",))
    del there["id"]
    return {
        "eventBusName": props.get("eventBusName", "default"),
        **there,
        "rule": props["rule"],
        "targetId": props["targetId"],
    }


def _update_target(aws: Aws, id: str, old: Props, new: Props) -> None:
    _put_target(aws, new)


def _adopt_target(id: str) -> dict[str, Any]:
    """An import names it RULE/TARGET, or BUS/RULE/TARGET."""
    *bus, rule, target = id.split("/")
    return {"rule": rule, "targetId": target, **({"eventBusName": bus[0]} if bus else {})}


KINDS = [
    Kind(
        type="aws:cloudwatch/logGroup:LogGroup",
        computed=frozenset({"logGroupClass"}),
        takes=frozenset({"name", "retentionInDays", "kmsKeyId", "logGroupClass", "tags"}),
        fixed=frozenset({"name", "logGroupClass", "kmsKeyId"}),
        named="name", name_chars=512, tagged=True, defaults={"retentionInDays": 0}, outputs=("arn",),
        create=_make_group, read=_read_group, update=_update_group,
        delete=lambda aws, id, props: aws.client("logs").delete_log_group(logGroupName=id),
        adopt=lambda id: {"name": id},
    ),
    Kind(
        type="aws:cloudwatch/metricAlarm:MetricAlarm",
        takes=frozenset({"dimensions", "metricQueries", "tags", *ALARM}), fixed=frozenset({"name"}),
        named="name", name_chars=255, tagged=True, outputs=("arn",),
        defaults={"actionsEnabled": True, "treatMissingData": "missing"},
        create=_put_alarm, read=_read_alarm, update=_update_alarm,
        delete=lambda aws, id, props: aws.client("cloudwatch").delete_alarms(AlarmNames=[id]),
        adopt=lambda id: {"name": id},
    ),
    Kind(
        type="aws:cloudwatch/eventBus:EventBus",
        takes=frozenset({"name", "description", "kmsKeyIdentifier", "tags"}),
        fixed=frozenset({"name", "description", "kmsKeyIdentifier"}), named="name", name_chars=256, tagged=True,
        outputs=("arn",), create=_make_bus, read=_read_bus, update=_update_bus, adopt=lambda id: {"name": id},
        delete=lambda aws, id, props: aws.client("events").delete_event_bus(Name=id),
    ),
    Kind(
        type="aws:cloudwatch/eventRule:EventRule",
        takes=frozenset({
            "name", "eventBusName", "eventPattern", "scheduleExpression", "description", "roleArn", "state", "tags",
        }),
        fixed=frozenset({"name", "eventBusName"}), named="name", name_chars=64, tagged=True, outputs=("arn",),
        defaults={"eventBusName": "default", "state": "ENABLED"},
        create=_put_rule, read=_read_rule, update=_update_rule,
        delete=lambda aws, id, props: aws.client("events").delete_rule(Name=_named(id)["name"], **_bus(_named(id))),
        adopt=_named,
    ),
    Kind(
        type="aws:cloudwatch/eventTarget:EventTarget",
        takes=frozenset({
            "rule", "targetId", "arn", "eventBusName", "input", "inputPath", "roleArn", "retryPolicy", "deadLetterConfig",
            "inputTransformer",
        }),
        fixed=frozenset({"rule", "targetId", "eventBusName"}), named="targetId", name_chars=64,
        defaults={"eventBusName": "default"},
        create=_put_target, read=_read_target, update=_update_target,
        delete=lambda aws, id, props: aws.client("events").remove_targets(
            Rule=props["rule"], Ids=[props["targetId"]], **_bus(props)
        ),
        adopt=_adopt_target,
    ),
]  # fmt: skip
