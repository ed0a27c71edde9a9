"""Endpoint: a shell on the service of AWS that `ekiben.aws.backends` picks. Revisions and traffic are made at run time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pulumi
import pulumi_aws as aws

from ekiben import components
from ekiben.aws import SUPPORT, stock
from ekiben.aws.backends import choose, instances
from ekiben.aws.components.images import builder_of
from ekiben.aws.components.network import Network, interface_statements, network
from ekiben.aws.components.program import LOG_DAYS, Aws, Statement, allow, facts, source_folder
from ekiben.aws.components.resources import Variants
from ekiben.aws.components.storage import Storage, storage_of
from ekiben.aws.components.training import image_statements, pass_to, volume_statements
from ekiben.aws.endpoint import REVISION_VARIABLES

__all__ = [
    "BACKENDS",
    "Endpoint",
    "function_statements",
    "hosting_statements",
    "log_statements",
    "measure_statements",
    "server_variables",
]

LAMBDA, SAGEMAKER = "lambda.amazonaws.com", "sagemaker.amazonaws.com"
ALIAS = "live"
# Room in /tmp for a bento, its archive, and predictions that wait for their storage; no more costs anything below 512.
TMP_MIB = 2048
# Endpoints are named by these and eight characters of Pulumi's: SageMaker's names have 63, of which a revision takes its own.
ENDPOINT_CHARS = 40


class Endpoint(Aws, components.Endpoint):
    """image_uri: of its environment. What it is made of is for the row of `BACKENDS` that its spec goes to."""

    support = SUPPORT
    image_uri: pulumi.Output[str]
    where: Network

    def create(self) -> None:
        from ekiben import packing

        self.where = network()
        backend = choose(self.name, self.spec, private=self.where.private)
        template = packing.template(source_folder(self, self.spec.bento))
        storage = storage_of(self, self.registry.storage)
        self.image_uri = builder_of(self, self.registry).image(packing.environment_image(template)).image_uri
        known = {
            "region": self.region,
            "model": self.spec.model,
            "storage_uri": storage.uri,
            "template_uri": self.upload(template, storage, "-template"),
            "template_sha256": template.sha256,
        }
        made, self._uses = BACKENDS[backend.name](self, storage)
        self.facts = facts(**known, **made)

    def needs(self) -> pulumi.Output[Sequence[Statement]]:
        storage = storage_of(self, self.registry.storage)
        return pulumi.Output.all(
            storage.statements("bentos/", "code/", f"predictions/{self.name}/", write=False), self._uses
        ).apply(lambda told: [*told[0], *told[1]])

    def serves(self, service: str, storage: Storage, *what: pulumi.Input[Sequence[Statement]]) -> aws.iam.Role:
        """The role that the containers of a service run as: they fetch bentos, and log predictions where the spec wants it."""
        self.identity = self.role(service)
        self.may("reads", storage.statements("bentos/", write=False))
        if self.spec.log_predictions:
            self.may("predicts", storage.statements(f"predictions/{self.name}/", write=True))
        self.may("serves", pulumi.Output.all(*what).apply(lambda told: [one for part in told for one in part]))
        return self.identity


# Facts beside those that all have, and what whoever uses the endpoint has to be allowed on the service.
Made = tuple[dict[str, Any], pulumi.Output[Sequence[Statement]]]


def on_lambda(endpoint: Endpoint, storage: Storage) -> Made:
    """A function of the image, the alias that has the traffic, and its URL."""
    name, spec, where = endpoint.name, endpoint.spec, endpoint.where
    log = aws.cloudwatch.LogGroup(name, retention_in_days=LOG_DAYS, tags=endpoint.tags, opts=endpoint.opts())
    role = endpoint.serves(
        LAMBDA, storage, log.arn.apply(log_statements), interface_statements() if where.private else []
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
        environment={"variables": server_variables(endpoint, storage)},
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
        "url": url.function_url,
    }
    return made, pulumi.Output.from_input(function.arn).apply(
        lambda arn: [*function_statements(arn), *measure_statements()]
    )


def _open(endpoint: Endpoint, function: aws.lambda_.Function, alias: aws.lambda_.Alias) -> None:
    """Let anybody call the URL. Both are needed: the second lets the URL call the function."""
    given = {"function": function.name, "qualifier": alias.name, "principal": "*", "opts": endpoint.opts()}
    aws.lambda_.Permission(
        f"{endpoint.name}-url", action="lambda:InvokeFunctionUrl", function_url_auth_type="NONE", **given
    )
    aws.lambda_.Permission(
        f"{endpoint.name}-invoke", action="lambda:InvokeFunction", invoked_via_function_url=True, **given
    )


def on_instances(endpoint: Endpoint, storage: Storage) -> Made:
    """A name and a role: SageMaker has no endpoint without a model, so the first deployment makes it."""
    name, spec, where, key = endpoint.name, endpoint.spec, endpoint.where, storage.spec.kms_key
    log, called = hosted(endpoint, storage, "/aws/sagemaker/Endpoints")
    role = endpoint.identity
    assert role is not None
    resources = spec.resources
    count = instances(choose(name, spec, private=where.private), spec)
    made = {
        "endpoint": called,
        "role_arn": role.arn,
        "image_uri": endpoint.image_uri,
        "instance_type": stock.instance(
            resources.vcpu, resources.memory_mib, gpus=resources.gpus, gpu=resources.gpu
        ),
        "instances": count.least,
        "max_instances": count.most,
        "concurrency": spec.concurrency,
        "variables": server_variables(endpoint, storage),
        "subnet_ids": list(where.subnet_ids),
        "security_group_ids": list(where.security_group_ids),
        "kms_key": key,
        "network_isolation": where.isolated,
    }
    return made, hosting_needs(endpoint, called, log)


def hosted(
    endpoint: Endpoint, storage: Storage, log_prefix: str
) -> tuple[aws.cloudwatch.LogGroup, pulumi.Output[str]]:
    """What all of SageMaker's endpoints need: a name, its log group, a role, and an end for what deployments make."""
    name, where = endpoint.name, endpoint.where
    # Its random part is the role's: another stack's endpoint of this name has another one.
    log_name = aws.cloudwatch.LogGroup
    raise NotImplementedError(name, where, log_name, log_prefix)


def hosting_needs(
    endpoint: Endpoint, called: pulumi.Output[str], log: aws.cloudwatch.LogGroup
) -> pulumi.Output[Sequence[Statement]]:
    raise NotImplementedError


BACKENDS: Mapping[str, Callable[[Endpoint, Storage], Made]] = {
    "lambda": on_lambda,
    "sagemaker-instances": on_instances,
}
