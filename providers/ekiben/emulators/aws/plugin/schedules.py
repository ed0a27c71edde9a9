"""Schedules, groups of them, and budgets."""

from __future__ import annotations

from typing import Any

from ekiben.emulators.aws.plugin.kind import Aws, Kind, Props, camel, found, pascal, retag, tag_list, untagged

__all__ = ["KINDS"]

SCHEDULE = (
    "scheduleExpression", "scheduleExpressionTimezone", "flexibleTimeWindow", "target", "state", "description",
    "actionAfterCompletion",
)  # fmt: skip
TARGET = {"arn", "roleArn", "input", "deadLetterConfig", "retryPolicy"}
FILTER = {"ands": "And", "ors": "Or"}
NOTIFICATION = ("notificationType", "comparisonOperator", "threshold", "thresholdType")


def _schedule(props: Props) -> dict[str, Any]:
    if odd := sorted(props["target"].keys() - TARGET):
        raise ValueError(f"aws: cannot make a schedule with target.{odd[0]}: the stand-in does nothing with it")
    asked = {key: props[key] for key in SCHEDULE if key in props}
    return {"Name": props["name"], "GroupName": props["groupName"], **pascal(asked)}


def _make_schedule(aws: Aws, props: Props) -> str:
    aws.client("scheduler").create_schedule(**_schedule(props))
    return f"{props['groupName']}/{props['name']}"


def _read_schedule(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    group, _, name = id.partition("/")
    told = found(aws.client("scheduler").get_schedule, GroupName=group, Name=name)
    if told is None:
        return None
    there = {key: told[key] for key in pascal(dict.fromkeys(SCHEDULE)) if told.get(key) is not None}
    return {**camel(there), "name": name, "groupName": group, "arn": told["Arn"]}


def _update_schedule(aws: Aws, id: str, old: Props, new: Props) -> None:
    aws.client("scheduler").update_schedule(**_schedule(new))


def _drop_schedule(aws: Aws, id: str, props: Props) -> None:
    group, _, name = id.partition("/")
    aws.client("scheduler").delete_schedule(GroupName=group, Name=name)


def _make_group(aws: Aws, props: Props) -> str:
    aws.client("scheduler").create_schedule_group(Name=props["name"], Tags=tag_list(aws.tags(props)))
    return str(props["name"])


def _read_group(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    scheduler = aws.client("scheduler")
    told = found(scheduler.get_schedule_group, Name=id)
    if told is None:
        return None
    return {
        "name": id, "arn": told["Arn"], "state": told["State"], "creationDate": told["CreationDate"].isoformat(),
        "lastModificationDate": told["LastModificationDate"].isoformat(),
        "tags": untagged(scheduler.list_tags_for_resource(ResourceArn=told["Arn"])["Tags"]),
    }  # fmt: skip


def _update_group(aws: Aws, id: str, old: Props, new: Props) -> None:
    scheduler = aws.client("scheduler")
    retag(
        old.get("tagsAll", {}), aws.tags(new),
        lambda tags: scheduler.tag_resource(ResourceArn=old["arn"], Tags=tag_list(tags)),
        lambda keys: scheduler.untag_resource(ResourceArn=old["arn"], TagKeys=keys),
    )  # fmt: skip


def _budget(props: Props) -> dict[str, Any]:
    made: dict[str, Any] = {
        "BudgetName": props["name"], "BudgetType": props["budgetType"], "TimeUnit": props["timeUnit"],
        **({"CostFilters": {one["name"]: one["values"] for one in props["costFilters"]}} if "costFilters" in props else {}),
    }  # fmt: skip
    if "filterExpression" in props:
        made["FilterExpression"], made["Metrics"] = pascal(props["filterExpression"], FILTER), [props["metrics"]]
    if "limitAmount" in props:
        made["BudgetLimit"] = {"Amount": str(props["limitAmount"]), "Unit": props.get("limitUnit", "USD")}
    return made


def _notice(one: Props) -> dict[str, Any]:
    subscribers = [
        {"SubscriptionType": kind, "Address": address}
        for kind, key in (("EMAIL", "subscriberEmailAddresses"), ("SNS", "subscriberSnsTopicArns"))
        for address in one.get(key, ())
    ]
    return {
        "Notification": dict(pascal({key: one[key] for key in NOTIFICATION if key in one})),
        "Subscribers": subscribers,
    }


def _make_budget(aws: Aws, props: Props) -> str:
    aws.client("budgets").create_budget(
        AccountId=aws.account, Budget=_budget(props), ResourceTags=tag_list(aws.tags(props)),
        NotificationsWithSubscribers=[_notice(one) for one in props.get("notifications", ())],
    )  # fmt: skip
    return f"{aws.account}:{props['name']}"


def _arn(id: str) -> str:
    account, _, name = id.partition(":")
    return f"arn:aws:budgets::{account}:budget/{name}"


def _read_budget(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    client, (account, _, name) = aws.client("budgets"), id.partition(":")
    told = found(client.describe_budget, AccountId=account, BudgetName=name)
    if told is None:
        return None
    budget = told["Budget"]
    limit = budget.get("BudgetLimit", {})
    filters = budget.get("CostFilters") or {}
    noted = client.describe_notifications_for_budget(AccountId=account, BudgetName=name)["Notifications"]
    there = [camel(one) for one in noted]
    # Who hears of it is not told by moto: what was asked is what is there, as long as the notification is.
    notices = [one for one in props.get("notifications", ()) if _kept(one, there)]
    return {
        "name": name, "accountId": account, "arn": _arn(id), "budgetType": budget["BudgetType"], "timeUnit": budget["TimeUnit"],
        **({"costFilters": [{"name": key, "values": values} for key, values in filters.items()]} if filters else {}),
        **({"filterExpression": camel(budget["FilterExpression"], FILTER)} if "FilterExpression" in budget else {}),
        **({"metrics": budget["Metrics"][0]} if "Metrics" in budget else {}),
        **({"limitAmount": limit["Amount"], "limitUnit": limit["Unit"]} if limit else {}),
        "notifications": notices, "tags": untagged(client.list_tags_for_resource(ResourceARN=_arn(id))["ResourceTags"]),
    }  # fmt: skip


def _kept(one: Props, there: list[Props]) -> bool:
    def mark(of: Props) -> tuple[str, str, float]:
        return of["notificationType"], of["comparisonOperator"], float(of["threshold"])

    return mark(one) in map(mark, there)


def _update_budget(aws: Aws, id: str, old: Props, new: Props) -> None:
    client, where = aws.client("budgets"), {"AccountId": id.partition(":")[0], "BudgetName": id.partition(":")[2]}
    client.update_budget(AccountId=where["AccountId"], NewBudget=_budget(new))
    before, after = old.get("notifications", []), new.get("notifications", [])
    for one in (one for one in before if one not in after):
        client.delete_notification(**where, Notification=_notice(one)["Notification"])
    for one in (one for one in after if one not in before):
        client.create_notification(**where, **_notice(one))
    retag(
        old.get("tagsAll", {}), aws.tags(new),
        lambda tags: client.tag_resource(ResourceARN=_arn(id), ResourceTags=tag_list(tags)),
        lambda keys: client.untag_resource(ResourceARN=_arn(id), ResourceTagKeys=keys),
    )  # fmt: skip


def _drop_budget(aws: Aws, id: str, props: Props) -> None:
    aws.client("budgets").delete_budget(AccountId=id.partition(":")[0], BudgetName=id.partition(":")[2])


KINDS = [
    Kind(
        type="aws:scheduler/schedule:Schedule",
        computed=frozenset({"actionAfterCompletion"}),
        takes=frozenset({"name", "groupName", *SCHEDULE}), fixed=frozenset({"name", "groupName"}), named="name", name_chars=64,
        defaults={"groupName": "default", "scheduleExpressionTimezone": "UTC", "state": "ENABLED"}, outputs=("arn",),
        create=_make_schedule, read=_read_schedule, update=_update_schedule, delete=_drop_schedule,
        adopt=lambda id: {"groupName": id.partition("/")[0], "name": id.partition("/")[2]},
    ),
    Kind(
        type="aws:scheduler/scheduleGroup:ScheduleGroup",
        takes=frozenset({"name", "tags"}), fixed=frozenset({"name"}), named="name", name_chars=64, tagged=True,
        outputs=("arn", "state", "creationDate", "lastModificationDate"),
        create=_make_group, read=_read_group, update=_update_group, adopt=lambda id: {"name": id},
        delete=lambda aws, id, props: aws.client("scheduler").delete_schedule_group(Name=id),
    ),
    Kind(
        type="aws:budgets/budget:Budget",
        takes=frozenset({
            "name", "budgetType", "timeUnit", "limitAmount", "limitUnit", "costFilters", "filterExpression", "metrics",
            "notifications", "tags",
        }),
        fixed=frozenset({"name"}), named="name", name_chars=100, tagged=True, outputs=("arn", "accountId"),
        create=_make_budget, read=_read_budget, update=_update_budget, delete=_drop_budget,
    ),
]  # fmt: skip
