"""What a request asks of IAM: the actions, the resources, and the values of the conditions that policies may have on them.

Of the services that Ekiben uses; an action whose resource is not known here is asked for on "*", which no narrow policy allows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote

from botocore.session import get_session
from moto.elbv2.models import elbv2_backends
from moto.s3.models import s3_backends

from ekiben.emulators.aws.call import Call

__all__ = ["Asked", "asked"]

# The name that a request is signed for -> the one in policies, where they differ.
PREFIXES = {"monitoring": "cloudwatch", "tagging": "tag"}
# SageMaker's parameters that name what an action is on, and the type in its ARN.
SAGEMAKER = {
    "TrainingJobName": "training-job", "EndpointName": "endpoint", "EndpointConfigName": "endpoint-config",
    "ModelName": "model", "ModelPackageGroupName": "model-package-group", "ModelPackageName": "model-package",
}  # fmt: skip
# Those which are on packages, though they name a group.
PACKAGES = {"CreateModelPackage", "ListModelPackages"}
# Service -> the parameter that names its resource, and what comes before the name in the ARN.
NAMED = {
    "ecr": ("repositoryName", "repository/"),
    "codebuild": ("projectName", "project/"),
    "kms": ("KeyId", "key/"),
    "secretsmanager": ("SecretId", "secret:"),
    "sns": ("TopicArn", ""),
}
TASKS = "ecs-tasks.amazonaws.com"
# Where roles are handed over: action -> the parameters, and the service that gets each.
PASSES = {
    "sagemaker:CreateTrainingJob": {"RoleArn": "sagemaker.amazonaws.com"},
    "sagemaker:CreateModel": {"ExecutionRoleArn": "sagemaker.amazonaws.com"},
    "lambda:CreateFunction": {"Role": "lambda.amazonaws.com"},
    "lambda:UpdateFunctionConfiguration": {"Role": "lambda.amazonaws.com"},
    "codebuild:CreateProject": {"serviceRole": "codebuild.amazonaws.com"},
    "scheduler:CreateSchedule": {"RoleArn": "scheduler.amazonaws.com"},
    "ecs:RegisterTaskDefinition": {"executionRoleArn": TASKS, "taskRoleArn": TASKS},
    "ecs:CreateExpressGatewayService": {
        "infrastructureRoleArn": "ecs.amazonaws.com", "executionRoleArn": TASKS, "taskRoleArn": TASKS,
    },
}  # fmt: skip
# ECS's parameters that name, by ARNs or in one cluster, what an action is on, and the type in the ARN.
ECS = {
    "serviceArn": "service", "service": "service", "serviceRevisionArns": "service-revision", "tasks": "task",
    "serviceDeploymentArn": "service-deployment", "resourceArn": "",
}  # fmt: skip
# What ECS asks for on everything: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonelasticcontainerservice.html
ECS_WIDE = {"ListTasks", "ListTaskDefinitions", "DescribeTaskDefinition", "DeregisterTaskDefinition"}
QUALIFIED = {
    "Invoke", "DeleteFunction", "GetFunctionConfiguration", "GetFunction", "DeleteProvisionedConcurrencyConfig",
    "GetProvisionedConcurrencyConfig", "PutProvisionedConcurrencyConfig",
}  # fmt: skip
LAMBDA = {"Invoke": "InvokeFunction", "InvokeWithResponseStream": "InvokeFunction"}


@dataclass(frozen=True)
class Asked:
    """An action on a resource, and what conditions may look at."""

    action: str
    resource: str
    values: Mapping[str, str] = field(default_factory=dict)


def asked(call: Call) -> Iterator[Asked]:
    """All that a request needs to be allowed; nothing for a request that is not signed for a service."""
    prefix, account = PREFIXES.get(call.service, call.service), call.account
    if call.service == "s3":
        yield from _s3(call)
        return
    operation, given = _operation(call)
    action = f"{prefix}:{LAMBDA.get(operation, operation) if prefix == 'lambda' else operation}"
    here = f"arn:aws:{prefix}:{call.region}:{account}:"
    if action == "events:PutEvents":
        for entry in given.get("Entries", ()):
            bus = str(entry.get("EventBusName") or "default")
            told = {
                "events:source": str(entry.get("Source", "")),
                "events:detail-type": str(entry.get("DetailType", "")),
            }
            yield Asked(action, bus if bus.startswith("arn:") else f"{here}event-bus/{bus}", told)
        return
    values = _values(action, given, call)
    for resource in _resources(prefix, operation, given, here, call):
        yield Asked(action, resource, values)
        if prefix == "ecs" and given.get("tags") and operation != "TagResource":
            yield Asked("ecs:TagResource", resource, values)
    for key, service in PASSES.get(action, {}).items():
        if role := given.get(key) or given.get("Target", {}).get(key):
            yield Asked("iam:PassRole", str(role), {"iam:PassedToService": service})


def _operation(call: Call) -> tuple[str, Mapping[str, Any]]:
    """The operation, and its parameters by their names in the API."""
    if call.action:
        return call.action, call.json
    if call.environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
        form = dict(parse_qsl(call.body.decode("utf-8", "replace"), keep_blank_values=True))
        if "Action" in form:
            return form["Action"], form
    service = "sagemaker-runtime" if call.service == "sagemaker" else call.service
    for method, path, fixed, name, raw in _rest(service):
        if method == call.method and fixed.items() <= call.query.items() and (found := path.fullmatch(call.path)):
            there = {} if raw else call.json
            names = {key: unquote(value) for key, value in found.groupdict().items()}
            return name, {**there, **call.query, **names}
    return call.query.get("Action", "Unknown"), call.query


@cache
def _rest(service: str) -> list[tuple[str, re.Pattern[str], dict[str, str], str, bool]]:
    """Of a service whose operations are methods, paths and words in the query: those, the longest first, and whether their bodies
    are no JSON.
    """
    session = get_session()
    if service not in session.get_available_services():
        return []
    model = session.get_service_model(service)
    found = []
    for name in model.operation_names:
        operation = model.operation_model(name)
        http, shape = operation.http, operation.input_shape
        raw = bool(shape and shape.serialization.get("payload"))
        path, _, words = http["requestUri"].partition("?")
        path = re.escape(path).replace(r"\{", "{").replace(r"\}", "}")
        path = re.sub(r"\{(\w+)\\\+\}", r"(?P<\1>.+)", path)
        pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path) + "/?")
        found.append((http["method"], pattern, dict(parse_qsl(words)), name, raw))
    return sorted(found, key=lambda one: (-len(one[1].pattern), -len(one[2])))


def _values(action: str, given: Mapping[str, Any], call: Call) -> dict[str, str]:
    if action == "cloudwatch:PutMetricData":
        return {"cloudwatch:namespace": str(given.get("Namespace", ""))}
    if action.startswith("application-autoscaling:"):
        names = {"service-namespace": "ServiceNamespace", "scalable-dimension": "ScalableDimension"}
        return {f"application-autoscaling:{ours}": str(given.get(theirs, "")) for ours, theirs in names.items()}
    if action.startswith("ecs:") and "cluster" in given:
        return {"ecs:cluster": _ecs(str(given["cluster"]), "cluster", f"arn:aws:ecs:{call.region}:{call.account}:", "")}
    if "LoadBalancerArn" in given:
        there: Any = elbv2_backends[call.account][call.region]
        tags = there.tagging_service.get_tag_dict_for_resource(str(given["LoadBalancerArn"]))
        return {f"aws:ResourceTag/{key}": str(value) for key, value in tags.items()}
    return {}


def _resources(prefix: str, operation: str, given: Mapping[str, Any], here: str, call: Call) -> Iterator[str]:
    match prefix:
        case "sagemaker":
            yield from _sagemaker(operation, given, here)
        case "lambda":
            yield from _lambda(operation, given, here)
        case "logs":
            group = given.get("logGroupName") or str(given.get("logGroupIdentifier", "")).partition(":log-group:")[2]
            yield f"{here}log-group:{group}:log-stream:{given.get('logStreamName', '')}" if group else "*"
        case "sqs":
            url = str(given.get("QueueUrl", ""))
            yield here + (url.rpartition("/")[2] or str(given.get("QueueName", "")))
        case "cloudwatch":
            names = given.get("AlarmNames") or [given[key] for key in ("AlarmName",) if key in given]
            yield from [f"{here}alarm:{name}" for name in names] or ["*"]
        case "iam":
            role = given.get("RoleName")
            yield f"arn:aws:iam::{call.account}:role/{role}" if role else str(given.get("PolicyArn", "*"))
        case "sts":
            yield str(given.get("RoleArn", "*"))
        case "events":
            bus = str(given.get("EventBusName", "default"))
            rule = given.get("Rule") or given.get("Name")
            yield f"{here}rule/" + (f"{bus}/" if bus != "default" else "") + str(rule) if rule else "*"
        case "ecs":
            yield from _of_ecs(operation, given, here)
        case "elasticloadbalancing" if not operation.startswith("Describe"):
            yield str(given.get("LoadBalancerArn", "*"))
        case "application-autoscaling" if "ResourceId" in given:
            yield f"{here}scalable-target/1"
        case _ if prefix in NAMED and NAMED[prefix][0] in given:
            key, before = NAMED[prefix]
            name = str(given[key])
            yield name if name.startswith("arn:") else f"{here}{before}{name}"
        case _:
            yield "*"


def _sagemaker(operation: str, given: Mapping[str, Any], here: str) -> Iterator[str]:
    if "ResourceArn" in given:
        yield str(given["ResourceArn"])
        return
    found = False
    for key, type_ in SAGEMAKER.items():
        name = str(given.get(key) or "")
        if not name or (operation in ("CreateModelPackage", "UpdateModelPackage") and key == "ModelName"):
            continue
        found = True
        if operation in PACKAGES and key == "ModelPackageGroupName":
            yield f"{here}model-package/{name.rpartition('/')[2]}/1"
        else:
            yield name if name.startswith("arn:") else f"{here}{type_}/{name}"
    if not found:
        yield str(given.get("ModelPackageArn") or "*")


def _of_ecs(operation: str, given: Mapping[str, Any], here: str) -> Iterator[str]:
    cluster = str(given.get("cluster") or "default").rpartition("/")[2]
    if operation in ECS_WIDE:
        yield "*"
    elif operation == "RegisterTaskDefinition":
        yield f"{here}task-definition/{given.get('family')}:1"
    elif operation == "DeleteTaskDefinitions":
        yield from map(str, given.get("taskDefinitions") or ["*"])
    elif operation == "CreateExpressGatewayService":
        yield f"{here}service/{cluster}/{given.get('serviceName')}"
    else:
        found = [(type_, given[key]) for key, type_ in ECS.items() if given.get(key)]
        names = [(type_, name) for type_, one in found for name in (one if isinstance(one, list) else [one])]
        yield from [_ecs(str(name), type_, here, cluster) for type_, name in names] or ["*"]


def _ecs(name: str, type_: str, here: str, cluster: str) -> str:
    return name if name.startswith("arn:") else f"{here}{type_}/{cluster}{'/' if cluster else ''}{name}"


def _lambda(operation: str, given: Mapping[str, Any], here: str) -> Iterator[str]:
    name, qualifier = str(given.get("FunctionName", "")), str(given.get("Qualifier", ""))
    if name.startswith("arn:"):
        parts = name.split(":")
        name, qualifier = parts[6], qualifier or "".join(parts[7:8])
    elif ":" in name:
        name, _, qualifier = name.partition(":")
    if not name:
        yield "*"
    else:
        yield f"{here}function:{name}" + (f":{qualifier}" if qualifier and operation in QUALIFIED else "")


def _s3(call: Call) -> Iterator[Asked]:
    bucket, _, key = call.path.lstrip("/").partition("/")
    query, whole = call.query, f"arn:aws:s3:::{bucket}"
    one = f"{whole}/{key}"
    if not bucket:
        yield Asked("s3:ListAllMyBuckets", "*")
    elif not key:
        yield from _bucket(call, whole)
    elif call.method in ("GET", "HEAD"):
        what = "ListMultipartUploadParts" if "uploadId" in query else "GetObject"
        for name, action in (
            ("tagging", "GetObjectTagging"),
            ("attributes", "GetObjectAttributes"),
            ("acl", "GetObjectAcl"),
        ):
            what = action if name in query else what
        yield Asked(f"s3:{what}Version" if "versionId" in query else f"s3:{what}", one)
        if what == "GetObject" and call.method == "GET":
            yield from _encrypted(call, bucket, "Decrypt")
    elif call.method == "DELETE":
        what = "AbortMultipartUpload" if "uploadId" in query else "DeleteObject"
        yield Asked(f"s3:{what}Version" if "versionId" in query else f"s3:{what}", one)
    else:
        yield Asked("s3:PutObjectTagging" if "tagging" in query else "s3:PutObject", one)
        if "tagging" not in query:  # the parts of an upload are read again when it is put together
            yield from _encrypted(call, bucket, "GenerateDataKey", *(["Decrypt"] if "uploadId" in query else []))
        if source := unquote(call.header("X-Amz-Copy-Source")).lstrip("/"):
            yield Asked("s3:GetObject", f"arn:aws:s3:::{source.partition('?')[0]}")
            yield from _encrypted(call, source.partition("/")[0], "Decrypt")


def _encrypted(call: Call, bucket: str, *actions: str) -> Iterator[Asked]:
    """What S3 asks KMS for in the caller's name, where the bucket is encrypted with a customer's key."""
    found = s3_backends[call.account]["aws"].buckets.get(bucket)
    rule = ((found and found.encryption) or {}).get("Rule", {})
    rule = rule[0] if isinstance(rule, list) else rule
    if key := rule.get("ApplyServerSideEncryptionByDefault", {}).get("KMSMasterKeyID", ""):
        arn = key if key.startswith("arn:") else f"arn:aws:kms:{call.region}:{call.account}:key/{key}"
        yield from (Asked(f"kms:{action}", arn) for action in actions)


def _bucket(call: Call, whole: str) -> Iterator[Asked]:
    query = call.query
    if call.method == "POST" and "delete" in query:
        for found in re.finditer(rb"<Key>(.*?)</Key>(\s*<VersionId>)?", call.body, re.DOTALL):
            key = found[1].decode("utf-8", "replace").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
            yield Asked("s3:DeleteObjectVersion" if found[2] else "s3:DeleteObject", f"{whole}/{key}")
        return
    lists = {"versions": "ListBucketVersions", "uploads": "ListBucketMultipartUploads", "location": "GetBucketLocation"}
    named = next((action for name, action in lists.items() if name in query), "")
    if call.method in ("GET", "HEAD") and (named or query.keys() <= LISTING):
        yield Asked(f"s3:{named or 'ListBucket'}", whole, {"s3:prefix": query.get("prefix", "")})
        return
    # A setting of the bucket, by the word in the query: GET /bucket?policy is GetBucketPolicy.
    word = next((name for name in query if name not in LISTING), "")
    verb = {"GET": "Get", "PUT": "Put", "DELETE": "Delete"}.get(call.method, call.method.title())
    if not word:
        yield Asked("s3:CreateBucket" if call.method == "PUT" else "s3:DeleteBucket", whole)
    else:
        yield Asked(f"s3:{verb}Bucket{word.title()}", whole)


LISTING = {
    "list-type", "prefix", "delimiter", "marker", "max-keys", "continuation-token", "start-after", "encoding-type", "fetch-owner",
    "x-id", "optional-object-attributes",
}  # fmt: skip
