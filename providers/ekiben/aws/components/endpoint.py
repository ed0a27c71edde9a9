"""Endpoint: a shell on the service of AWS that `ekiben.aws.backends` picks. Revisions and traffic are made at run time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pulumi
import pulumi_aws as aws

from ekiben import components
from ekiben.aws import SUPPORT, prices, stock
from ekiben.aws.backends import Backend, Tally, choose, fargate, instances
from ekiben.aws.components.express import on_express
from ekiben.aws.components.images import builder_of, pull_statements
from ekiben.aws.components.network import Network, interface_statements, network
from ekiben.aws.components.policies import Asked, Known, Statement, allow, asking, like, together
from ekiben.aws.components.program import LOG_DAYS, Aws
from ekiben.aws.components.resources import Variants
from ekiben.aws.components.servers import Made, log_statements, measure_statements, own_name
from ekiben.aws.components.storage import Storage, storage_of
from ekiben.aws.components.training import pass_to, volume_statements
from ekiben.aws.endpoint import REVISION_VARIABLES
from ekiben.aws.leftovers import ENDPOINT_LOGS
from ekiben.cost import Cost
from ekiben.errors import SpecError
from ekiben.programs import facts, once
from ekiben.specs import EndpointSpec

__all__ = [
    "BACKENDS",
    "Endpoint",
    "function_statements",
    "hosting_statements",
]

LAMBDA, SAGEMAKER = "lambda.amazonaws.com", "sagemaker.amazonaws.com"
# The role with which SageMaker scales.
SCALER = "sagemaker.application-autoscaling.amazonaws.com"
SCALING_ROLE = "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
ALIAS = "live"
# Room in /tmp for a bento, its archive, and predictions that wait for their storage. 512 are free, more cost next to nothing.
TMP_MIB = 2048


class Endpoint(Aws, components.Endpoint):
    """image_uri: of its environment. backend: what it is on; the row of `BACKENDS` by that name makes it."""

    support = SUPPORT
    image_uri: pulumi.Output[str]
    backend: Backend | None = None
    where: Network

    def create(self) -> None:
        from ekiben import packing

        self.where = network()
        named = services().get(self.name, "")
        self.backend = backend = choose(self.name, self.spec, named=named, private=self.where.private)
        pulumi.log.info(f"The endpoint {self.name!r} is on {backend.title}.", self)
        template = once(packing.template, components.source_folder(self, self.spec.bento))
        storage, builder = storage_of(self, self.registry.storage), builder_of(self, self.registry)
        self.image_uri = builder.image(once(packing.environment_image, template)).image_uri
        known = {
            "region": self.region,
            "model": self.spec.model,
            "storage_uri": storage.uri,
            "template_uri": self.upload(template, storage, "-template"),
            "template_sha256": template.sha256,
        }
        made, self._uses = BACKENDS[backend.name](self, storage, backend)
        self.facts = facts(**known, **made)

    def cost(self) -> Cost:
        return cost(self.backend, self.spec) if self.backend is not None else super().cost()

    def needs(self) -> Asked:
        storage = storage_of(self, self.registry.storage)
        return together(storage.statements("bentos/", "code/", f"predictions/{self.name}/", write=False), self._uses)

    def serves(self, service: str, storage: Storage, *what: Asked) -> aws.iam.Role:
        """The role that the containers of a service run as: they fetch bentos, and log predictions where the spec wants it."""
        self.identity = self.role(service)
        self.may(storage.statements("bentos/", write=False))
        if self.spec.log_predictions:
            self.may(storage.statements(f"predictions/{self.name}/", write=True))
        self.may(*what)
        self.acts()
        return self.identity


def on_lambda(endpoint: Endpoint, storage: Storage, backend: Backend) -> Made:
    """A function of the image, the alias that has the traffic, and its URL."""
    name, spec, where = endpoint.name, endpoint.spec, endpoint.where
    count = instances(backend, spec)
    log = aws.cloudwatch.LogGroup(name, retention_in_days=LOG_DAYS, tags=endpoint.tags, opts=endpoint.opts())
    private = interface_statements() if where.private else []
    role = endpoint.serves(
        LAMBDA,
        storage,
        asking(lambda log: [*log_statements(log), *private], Known(log.arn, like("logs", f"log-group:{name}"))),
    )
    vpc = {"subnet_ids": list(where.subnet_ids), "security_group_ids": list(where.security_group_ids)}
    function = aws.lambda_.Function(
        name,
        package_type="Image",
        image_uri=endpoint.image_uri,
        architectures=["x86_64"],
        role=role.arn,
        memory_size=spec.resources.memory_mib,
        timeout=math.ceil(spec.timeout_s),
        ephemeral_storage={"size": TMP_MIB},
        reserved_concurrent_executions=reserved(spec, count),
        environment={"variables": components.server_variables(endpoint, storage.uri)},
        logging_config={"log_format": "Text", "log_group": log.name},
        tags=endpoint.tags,
        **({"vpc_config": vpc} if where.private else {}),
        # A deployment names its bento in the environment, and publishes that as a version.
        opts=pulumi.ResourceOptions.merge(
            endpoint.opts(depends_on=endpoint.policies),
            pulumi.ResourceOptions(
                ignore_changes=[f"environment.variables.{variable}" for variable in REVISION_VARIABLES]
            ),
        ),
    )
    alias = aws.lambda_.Alias(
        name,
        name=ALIAS,
        function_name=function.name,
        function_version="$LATEST",
        opts=pulumi.ResourceOptions.merge(
            endpoint.opts(), pulumi.ResourceOptions(ignore_changes=["functionVersion", "routingConfig", "description"])
        ),
    )
    open_to_all = spec.auth == "none"
    url = aws.lambda_.FunctionUrl(
        name,
        function_name=function.name,
        qualifier=alias.name,
        authorization_type="NONE" if open_to_all else "AWS_IAM",
        opts=endpoint.opts(),
    )
    if open_to_all:
        _open(endpoint, function, alias)
    endpoint.ref = function.arn
    made = {
        "function": function.name,
        "alias": alias.name,
        "log_group": log.name,
        # Routes are put behind it as behind every endpoint's: "/predict".
        "url": url.function_url.apply(lambda address: address.rstrip("/")),
        "provisioned": count.least,
    }
    return made, asking(
        lambda arn: [*function_statements(arn), *measure_statements()],
        Known(function.arn, like("lambda", f"function:{name}")),
    )


def reserved(spec: EndpointSpec, count: Tally) -> int | None:
    """The instances of a function at most: none are reserved unless the program says how many, as other functions lack them.

    While traffic moves, what had it and what gets it have their instances started, each rounded up: there is room for both.
    """
    if "max_instances" not in spec.model_fields_set:
        return None
    return max(count.most, 2 * count.least + 2 if count.least else 0)


def _open(endpoint: Endpoint, function: aws.lambda_.Function, alias: aws.lambda_.Alias) -> None:
    """Let anybody call the URL. Both are needed: the second lets the URL call the function."""
    given = {"function": function.name, "qualifier": alias.name, "principal": "*", "opts": endpoint.opts()}
    aws.lambda_.Permission(
        f"{endpoint.name}-url", action="lambda:InvokeFunctionUrl", function_url_auth_type="NONE", **given
    )
    aws.lambda_.Permission(
        f"{endpoint.name}-invoke", action="lambda:InvokeFunction", invoked_via_function_url=True, **given
    )


def on_instances(endpoint: Endpoint, storage: Storage, backend: Backend) -> Made:
    """A name and a role: SageMaker has no endpoint without a model, so the first deployment makes it."""
    spec, where, resources = endpoint.spec, endpoint.where, endpoint.spec.resources
    called, role, uses = hosted(endpoint, storage)
    count = instances(backend, spec)
    made = {
        "endpoint": called,
        "role_arn": role.arn,
        "image_uri": endpoint.image_uri,
        "instance_type": stock.instance(resources.vcpu, resources.memory_mib, gpus=resources.gpus, gpu=resources.gpu),
        "instances": count.least,
        "max_instances": count.most,
        "concurrency": spec.concurrency,
        "variables": components.server_variables(endpoint, storage.uri),
        "subnet_ids": list(where.subnet_ids),
        "security_group_ids": list(where.security_group_ids),
        "kms_key": storage.spec.kms_key,
    }
    return made, uses


def on_serverless(endpoint: Endpoint, storage: Storage, backend: Backend) -> Made:
    """A name and a role, as on instances. Memory comes in whole GiB."""
    called, role, uses = hosted(endpoint, storage)
    count = instances(backend, endpoint.spec)
    made = {
        "serverless": called,
        "role_arn": role.arn,
        "image_uri": endpoint.image_uri,
        "memory_mib": max(backend.least_mib, math.ceil(endpoint.spec.resources.memory_mib / 1024) * 1024),
        "max_concurrency": count.most,
        "provisioned": count.least,
        # An instance may be frozen between two requests, as on Lambda, which the server finds out by itself.
        "variables": {"EKIBEN_LOG_FLUSH_S": "0", **components.server_variables(endpoint, storage.uri)},
    }
    return made, uses


def hosted(endpoint: Endpoint, storage: Storage) -> tuple[pulumi.Input[str], aws.iam.Role, Asked]:
    """What all of SageMaker's endpoints need: a name, the role that models run as, and what whoever deploys may do.

    What deployments make goes with the component: models, configurations, endpoints, logs.
    """
    name = endpoint.name
    called = own_name(endpoint, storage)
    log = aws.cloudwatch.LogGroup(
        name,
        name=pulumi.Output.concat(ENDPOINT_LOGS, called.value),
        retention_in_days=LOG_DAYS,
        tags=endpoint.tags,
        opts=endpoint.opts(),
    )
    key = storage.spec.kms_key
    private = interface_statements() if endpoint.where.private else []
    logs = Known(log.arn, like("logs", f"log-group:{ENDPOINT_LOGS}{called.like}"))
    role = endpoint.serves(
        SAGEMAKER,
        storage,
        asking(lambda arn: [*log_statements(arn), *own_log_statements(arn), *count_statements()], logs),
        asking(
            lambda arn: [*pull_statements(arn), *volume_statements(key), *private],
            builder_of(endpoint, endpoint.registry).arn,
        ),
    )
    Variants(
        f"{name}-variants",
        {"region": endpoint.region, "endpoint": called.value},
        opts=endpoint.opts(depends_on=[role, *endpoint.policies, log]),
    )
    endpoint.ref = pulumi.Output.from_input(called.value)
    uses = asking(
        lambda *told: [*hosting_statements(*told), *measure_statements()],
        *endpoint.here,
        called,
        Known(role.arn, like("iam", f"role/{name}")),
        logs,
    )
    return called.value, role, uses


# A row of `ekiben.aws.backends` -> what makes its shell.
BACKENDS: Mapping[str, Callable[[Endpoint, Storage, Backend], Made]] = {
    "lambda": on_lambda,
    "sagemaker-instances": on_instances,
    "sagemaker-serverless": on_serverless,
    "ecs-express": on_express,
}


def cost(backend: Backend, spec: EndpointSpec) -> Cost:
    """What an endpoint of this spec costs on a service."""
    resources, count = spec.resources, instances(backend, spec)
    if backend.name == "lambda":
        return prices.function(
            resources.memory_mib, kept=count.least, most=reserved(spec, count), logged=spec.log_predictions
        )
    if backend.name == "sagemaker-serverless":
        memory_mib = max(backend.least_mib, math.ceil(resources.memory_mib / 1024) * 1024)
        return prices.serverless(memory_mib, kept=count.least, most=count.most)
    if backend.name == "ecs-express":
        vcpu, memory_mib = fargate(resources)
        return prices.containers(vcpu, memory_mib, least=count.least, most=count.most)
    type_ = stock.instance(resources.vcpu, resources.memory_mib, gpus=resources.gpus, gpu=resources.gpu)
    return prices.instances(type_, least=count.least, most=count.most)


def services() -> Mapping[str, str]:
    """Endpoint -> the service that the stack's config names for it (`ekiben:services`). Raises SpecError for what names none."""
    try:
        told: Any = pulumi.Config("ekiben").get_object("services")
    except pulumi.ConfigTypeError as error:
        raise SpecError(f"The stack's config ekiben:services is no JSON object: {error}.") from error
    if told is None:
        return {}
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise SpecError(
            f"The stack's config ekiben:services is {told!r}: it has names of endpoints, and the service that each is to be on."
        )
    return told


def own_log_statements(log_arn: str) -> list[Statement]:
    """Log into the groups of revisions that are endpoints of their own, which SageMaker makes."""
    return [
        allow(
            ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
            [f"{log_arn}-*"],
        )
    ]


def count_statements() -> list[Statement]:
    """Tell how busy the machines of endpoints are. Metrics have no ARNs; the namespace says which they are."""
    namespace = {"StringEquals": {"cloudwatch:namespace": "/aws/sagemaker/Endpoints"}}
    return [allow(["cloudwatch:PutMetricData"], ["*"], namespace)]


def function_statements(function_arn: str) -> list[Statement]:
    """Deploy on one function, shift, retire and call. Only versions of it can be deleted."""
    reads = ["GetFunctionConfiguration", "ListAliases", "ListProvisionedConcurrencyConfigs", "ListVersionsByFunction"]
    started = [f"lambda:{action}ProvisionedConcurrencyConfig" for action in ("Delete", "Get", "Put")]
    changes = ["CreateAlias", "DeleteAlias", "PublishVersion", "UpdateAlias", "UpdateFunctionConfiguration"]
    versions = f"{function_arn}:*"
    return [
        allow([f"lambda:{action}" for action in (*reads, *changes)], [function_arn, versions]),
        allow(["lambda:DeleteFunction", *started], [versions]),
        allow(["lambda:InvokeFunction", "lambda:InvokeFunctionUrl"], [function_arn, versions]),
    ]


def hosting_statements(
    partition: str, region: str, account: str, endpoint: str, role_arn: str, log_arn: str
) -> list[Statement]:
    """Deploy models of this role on the endpoint of this name and those named after it, shift, scale, retire and call."""
    sagemaker, variant = f"arn:{partition}:sagemaker:{region}:{account}", f"endpoint/{endpoint}/variant/*"
    things = [f"{sagemaker}:{kind}/{endpoint}-*" for kind in ("endpoint", "endpoint-config", "model")]
    actions = [
        "AddTags", "CreateEndpoint", "CreateEndpointConfig", "CreateModel", "DeleteEndpoint", "DeleteEndpointConfig", "DeleteModel",
        "DescribeEndpoint", "DescribeEndpointConfig", "DescribeModel", "InvokeEndpoint", "UpdateEndpoint",
        "UpdateEndpointWeightsAndCapacities",
    ]  # fmt: skip
    scaled = {
        "StringEquals": {
            "application-autoscaling:service-namespace": "sagemaker",
            "application-autoscaling:scalable-dimension": "sagemaker:variant:DesiredInstanceCount",
        }
    }
    targets = [f"arn:{partition}:application-autoscaling:{region}:{account}:scalable-target/*"]
    alarms = [f"arn:{partition}:cloudwatch:{region}:{account}:alarm:TargetTracking-{variant}"]
    linked = f"arn:{partition}:iam::{account}:role/aws-service-role/{SCALER}/{SCALING_ROLE}"
    return [
        allow([f"sagemaker:{action}" for action in actions], [f"{sagemaker}:endpoint/{endpoint}", *things]),
        # A list has no ARN.
        allow(["sagemaker:ListEndpoints"], ["*"]),
        allow(["iam:PassRole"], [role_arn], pass_to(SAGEMAKER)),
        allow(["logs:FilterLogEvents"], [f"{log_arn}:*", f"{log_arn}-*"]),
        # That of a revision which is an endpoint of its own.
        allow(["logs:DeleteLogGroup"], [f"{log_arn}-*"]),
        allow([f"application-autoscaling:{one}ScalableTarget" for one in ("Register", "Deregister")], targets, scaled),
        allow(["application-autoscaling:PutScalingPolicy"], targets, scaled),
        allow([f"cloudwatch:{one}" for one in ("DeleteAlarms", "DescribeAlarms", "PutMetricAlarm")], alarms),
        allow(["iam:CreateServiceLinkedRole"], [linked], {"StringLike": {"iam:AWSServiceName": SCALER}}),
    ]
