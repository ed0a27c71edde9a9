"""Functions, and what belongs to a function."""

from __future__ import annotations

import json
from typing import Any

from ekiben.emulators.aws.plugin.archives import zipped
from ekiben.emulators.aws.plugin.kind import Aws, Kind, Props, camel, found, pascal, retag, whole

__all__ = ["KINDS"]

CODE = ("code", "s3Bucket", "s3Key", "s3ObjectVersion", "imageUri", "sourceCodeHash")
SETTINGS = (
    "role", "handler", "runtime", "description", "timeout", "memorySize", "environment", "deadLetterConfig", "ephemeralStorage",
    "layers", "loggingConfig",
)  # fmt: skip
PERMISSION = (
    "action", "principal", "sourceArn", "sourceAccount", "statementId", "qualifier", "functionUrlAuthType", "eventSourceToken",
    "principalOrgId", "invokedViaFunctionUrl",
)  # fmt: skip
NAMES = {"principalOrgId": "PrincipalOrgID", "authorizationType": "AuthType"}


def _given(props: Props, names: tuple[str, ...], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    return dict(pascal({name: props[name] for name in names if name in props}, NAMES, keep))


def _source(props: Props) -> dict[str, Any]:
    if "code" in props:
        return {"ZipFile": zipped(props["code"])}
    return whole(props, "s3Bucket", "s3Key", "s3ObjectVersion", "imageUri")


def _make(aws: Aws, props: Props) -> str:
    client, name = aws.client("lambda"), props["name"]
    client.create_function(
        FunctionName=name, Code=_source(props), Publish=bool(props.get("publish")), Tags=aws.tags(props),
        **_given(props, (*SETTINGS, "packageType", "architectures"), ("variables",)),
    )  # fmt: skip
    _limit(aws, name, props)
    return str(name)


def _limit(aws: Aws, name: str, props: Props) -> None:
    client, most = aws.client("lambda"), props.get("reservedConcurrentExecutions", -1)
    if most >= 0:
        client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=most)
    else:
        client.delete_function_concurrency(FunctionName=name)


def _read(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    client = aws.client("lambda")
    told = found(client.get_function, FunctionName=id)
    if told is None:
        return None
    config = told["Configuration"]
    arn = config["FunctionArn"]
    names = (*SETTINGS, "packageType", "architectures", "lastModified")
    there = camel(
        {key: config[key] for key in pascal(dict.fromkeys(names)) if config.get(key) is not None}, NAMES, ("variables",)
    )
    there["layers"] = [layer["Arn"] for layer in config.get("Layers") or ()]
    versions = [one["Version"] for one in client.list_versions_by_function(FunctionName=id)["Versions"]]
    version = max((one for one in versions if one.isdigit()), key=int, default="$LATEST")
    invoke = f"arn:aws:apigateway:{aws.region}:lambda:path/2015-03-31/functions/"
    return {
        **there, "name": id, "arn": arn, "version": version, "qualifiedArn": f"{arn}:{version}",
        "invokeArn": f"{invoke}{arn}/invocations",
        "qualifiedInvokeArn": f"{invoke}{arn}:{version}/invocations", "sourceCodeSize": config["CodeSize"],
        "reservedConcurrentExecutions": told.get("Concurrency", {}).get("ReservedConcurrentExecutions", -1),
        "tags": told.get("Tags", {}),
    }  # fmt: skip


def _update(aws: Aws, id: str, old: Props, new: Props) -> None:
    client = aws.client("lambda")
    if any(old.get(name) != new.get(name) for name in SETTINGS):
        nothing = {
            "Description": "",
            "Environment": {"Variables": {}},
            "Layers": [],
            "DeadLetterConfig": {"TargetArn": ""},
            "LoggingConfig": {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{id}"},
        }
        client.update_function_configuration(FunctionName=id, **{**nothing, **_given(new, SETTINGS, ("variables",))})
    if any(old.get(name) != new.get(name) for name in CODE):
        client.update_function_code(FunctionName=id, **_source(new))
    if new.get("publish"):
        client.publish_version(FunctionName=id)
    if old.get("reservedConcurrentExecutions") != new.get("reservedConcurrentExecutions"):
        _limit(aws, id, new)
    retag(
        old.get("tagsAll", {}), aws.tags(new),
        lambda tags: client.tag_resource(Resource=old["arn"], Tags=tags),
        lambda keys: client.untag_resource(Resource=old["arn"], TagKeys=keys),
    )  # fmt: skip


def _routing(props: Props) -> dict[str, Any]:
    return {"AdditionalVersionWeights": props.get("routingConfig", {}).get("additionalVersionWeights", {})}


def _make_alias(aws: Aws, props: Props) -> str:
    made = aws.client("lambda").create_alias(
        FunctionName=props["functionName"], Name=props["name"], FunctionVersion=props["functionVersion"],
        RoutingConfig=_routing(props), **whole(props, "description"),
    )  # fmt: skip
    return str(made["AliasArn"])


def _alias(id: str) -> dict[str, Any]:
    """By the ARN; an import names it FUNCTION/ALIAS."""
    function, name = id.split(":")[6:8] if id.startswith("arn:") else id.split("/")
    return {"functionName": function, "name": name}


def _read_alias(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    named = _alias(id)
    told = found(aws.client("lambda").get_alias, FunctionName=named["functionName"], Name=named["name"])
    if told is None:
        return None
    weights = (told.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
    arn = told["AliasArn"]
    invoke = f"arn:aws:apigateway:{aws.region}:lambda:path/2015-03-31/functions/{arn}/invocations"
    # A program may name the function by its ARN.
    named["functionName"] = props.get("functionName", named["functionName"])
    return {
        **named, "arn": arn, "functionVersion": told["FunctionVersion"], "description": told.get("Description", ""),
        "invokeArn": invoke,
        **({"routingConfig": {"additionalVersionWeights": weights}} if weights or "routingConfig" in props else {}),
    }  # fmt: skip


def _update_alias(aws: Aws, id: str, old: Props, new: Props) -> None:
    aws.client("lambda").update_alias(
        FunctionName=new["functionName"], Name=new["name"], FunctionVersion=new["functionVersion"],
        RoutingConfig=_routing(new), Description=new.get("description", ""),
    )  # fmt: skip


def _delete_alias(aws: Aws, id: str, props: Props) -> None:
    named = _alias(id)
    aws.client("lambda").delete_alias(FunctionName=named["functionName"], Name=named["name"])


def _allow(aws: Aws, props: Props) -> str:
    aws.client("lambda").add_permission(FunctionName=props["function"], **_given(props, PERMISSION))
    return str(props["statementId"])


def _read_permission(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    client = aws.client("lambda")
    statements: list[dict[str, Any]] = []
    # moto keeps them with the version that the alias stood for when they were added.
    for asked in (
        {"FunctionName": props["function"], **whole(props, "qualifier")},
        {"FunctionName": props["function"]},
    ):
        told = found(client.get_policy, **asked)
        statements += json.loads(told["Policy"])["Statement"] if told else []
    if not any(one["Sid"] == id for one in statements):
        return None
    return {"function": props["function"], "statementId": id}


def _forbid(aws: Aws, id: str, props: Props) -> None:
    aws.client("lambda").remove_permission(FunctionName=props["function"], StatementId=id, **whole(props, "qualifier"))


def _make_url(aws: Aws, props: Props) -> str:
    client = aws.client("lambda")
    client.create_function_url_config(
        FunctionName=props["functionName"], **_given(props, ("authorizationType", "cors", "invokeMode", "qualifier"))
    )
    return "/".join(str(props[key]) for key in ("functionName", "qualifier") if key in props)


def _read_url(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    name, _, qualifier = id.partition("/")
    told = found(aws.client("lambda").get_function_url_config, FunctionName=name)
    if told is None:
        return None
    return {
        "functionName": name, **({"qualifier": qualifier} if qualifier else {}), "authorizationType": told["AuthType"],
        "functionArn": told["FunctionArn"], "functionUrl": told["FunctionUrl"],
        "urlId": told["FunctionUrl"].rstrip("/").rpartition("/")[2],
        **({"cors": camel(told["Cors"])} if told.get("Cors") else {}),
    }  # fmt: skip


def _update_url(aws: Aws, id: str, old: Props, new: Props) -> None:
    aws.client("lambda").update_function_url_config(
        FunctionName=new["functionName"], **_given(new, ("authorizationType", "cors", "invokeMode", "qualifier"))
    )


def _put_events(aws: Aws, props: Props) -> str:
    names = ("destinationConfig", "maximumEventAgeInSeconds", "maximumRetryAttempts")
    aws.client("lambda").put_function_event_invoke_config(FunctionName=props["functionName"], **_given(props, names))
    return str(props["functionName"])


def _read_events(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    told = found(aws.client("lambda").get_function_event_invoke_config, FunctionName=id)
    if told is None:
        return None
    kept = ("DestinationConfig", "MaximumEventAgeInSeconds", "MaximumRetryAttempts")
    return {"functionName": id, **camel({key: told[key] for key in kept if told.get(key) is not None})}


def _update_events(aws: Aws, id: str, old: Props, new: Props) -> None:
    _put_events(aws, new)


KINDS = [
    Kind(
        type="aws:lambda/function:Function",
        computed=frozenset({"architectures", "ephemeralStorage", "loggingConfig"}),
        takes=frozenset({
            "name", "packageType", "architectures", "publish", "reservedConcurrentExecutions", "tags", *CODE, *SETTINGS,
        }),
        fixed=frozenset({"name", "packageType", "architectures"}), named="name", name_chars=64, tagged=True,
        defaults={"packageType": "Zip", "memorySize": 128, "timeout": 3, "publish": False, "reservedConcurrentExecutions": -1},
        outputs=("arn", "invokeArn", "lastModified", "qualifiedArn", "qualifiedInvokeArn", "version", "sourceCodeSize"),
        renewed=("lastModified", "qualifiedArn", "qualifiedInvokeArn", "version", "sourceCodeSize"),
        create=_make, read=_read, update=_update, adopt=lambda id: {"name": id},
        delete=lambda aws, id, props: aws.client("lambda").delete_function(FunctionName=id),
    ),
    Kind(
        type="aws:lambda/alias:Alias",
        takes=frozenset({"name", "functionName", "functionVersion", "description", "routingConfig"}),
        fixed=frozenset({"name", "functionName"}), named="name", name_chars=128, outputs=("arn", "invokeArn"),
        create=_make_alias, read=_read_alias, update=_update_alias, delete=_delete_alias, adopt=_alias,
    ),
    Kind(
        type="aws:lambda/permission:Permission",
        takes=frozenset({"function", *PERMISSION}), named="statementId", name_chars=100,
        create=_allow, read=_read_permission, delete=_forbid,
        adopt=lambda id: {"function": id.partition("/")[0], "statementId": id.partition("/")[2]},
    ),
    Kind(
        type="aws:lambda/functionUrl:FunctionUrl",
        takes=frozenset({"functionName", "qualifier", "authorizationType", "cors", "invokeMode"}),
        fixed=frozenset({"functionName", "qualifier"}), outputs=("functionArn", "functionUrl", "urlId"),
        defaults={"invokeMode": "BUFFERED"}, delete_first=True,
        create=_make_url, read=_read_url, update=_update_url,
        delete=lambda aws, id, props: aws.client("lambda").delete_function_url_config(FunctionName=id.partition("/")[0]),
    ),
    Kind(
        type="aws:lambda/functionEventInvokeConfig:FunctionEventInvokeConfig",
        takes=frozenset({"functionName", "destinationConfig", "maximumEventAgeInSeconds", "maximumRetryAttempts"}),
        fixed=frozenset({"functionName"}), defaults={"maximumRetryAttempts": 2},
        create=_put_events, read=_read_events, update=_update_events, adopt=lambda id: {"functionName": id},
        delete=lambda aws, id, props: aws.client("lambda").delete_function_event_invoke_config(FunctionName=id),
    ),
]  # fmt: skip
