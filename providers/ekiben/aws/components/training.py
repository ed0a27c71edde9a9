"""Training: a role for the jobs of one training, and its code in storage. A run is a job of SageMaker, made at run time."""

from __future__ import annotations

import re
from typing import Any

import pulumi

from ekiben import components
from ekiben.aws import SUPPORT, prices, stock
from ekiben.aws.components.images import pull_statements
from ekiben.aws.components.network import interface_statements, network
from ekiben.aws.components.policies import Asked, Known, Statement, allow, asking, like, together
from ekiben.aws.components.program import Aws
from ekiben.aws.components.resources import Jobs
from ekiben.aws.components.storage import storage_of
from ekiben.aws.jobs import scope_of
from ekiben.aws.training import LOG_GROUP
from ekiben.cost import Cost
from ekiben.errors import NoCapacity, Unsupported
from ekiben.programs import facts, once

__all__ = ["Training", "image_statements", "job_statements", "submit_statements", "volume_statements"]

SAGEMAKER = "sagemaker.amazonaws.com"
IMAGE = re.compile(r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.[^/]+/(?P<repository>[^:@]+)[:@].+")


class Training(Aws, components.Training):
    """scope: what the names of its jobs end with. jobs: what its runs leave, which goes with it."""

    support = SUPPORT
    instance_type = ""
    scope: pulumi.Output[str]
    jobs: Jobs

    def create(self) -> None:
        from ekiben import lineage, packing

        spec, project, stack, name = self.spec, pulumi.get_project(), pulumi.get_stack(), self.name
        folder = components.source_folder(self, spec.source, spec.entry)
        resources = spec.resources
        try:
            self.instance_type = stock.instance(
                resources.vcpu, resources.memory_mib, gpus=resources.gpus, gpu=resources.gpu
            )
        except NoCapacity as error:
            raise Unsupported(f"TrainingSpec of {name!r}: {error.why}. {error.remedy}.") from error
        image_uri = self.region.apply(lambda region: stock.image(region, gpus=resources.gpus))
        storage = storage_of(self, self.storage)
        code, library = (
            once(packing.bundle, folder),
            once(packing.job_library, "aws/container.py"),
        )
        key, where = storage.spec.kms_key, network()
        self.identity = self.role(SAGEMAKER)
        self.may(storage.statements(f"runs/{name}/", write=True))
        self.may(storage.statements("code/", write=False))
        inputs = {}
        for input_name, source in spec.inputs.items():
            bucket, _, prefix = source.partition("/")
            read = storage_of(self, self.sources[bucket])
            inputs[input_name] = pulumi.Output.concat(read.uri, "/", prefix)
            self.may(read.statements(prefix, write=False))
        self.scope = storage.uri.apply(lambda uri: scope_of(project, stack, name, uri))
        private = interface_statements() if where.private else []
        self.may(
            asking(
                lambda partition, region, account, scope, image: [
                    *job_statements(f"arn:{partition}:logs:{region}:{account}", scope),
                    *image_statements(partition, image),
                    *volume_statements(key),
                    *private,
                ],
                *self.here,
                Known(self.scope, scope_of(project, stack, name, "")),
                Known(image_uri, stock.longest(gpus=resources.gpus)),
            )
        )
        self.acts()
        self.jobs = Jobs(
            f"{name}-jobs",
            {"region": self.region, "scope": self.scope, "tags": self.tags},
            opts=self.opts(depends_on=[self.identity, *self.policies, *storage.settings]),
        )
        self.ref = self.identity.arn
        self.facts = facts(
            region=self.region,
            storage_uri=storage.uri,
            spec=spec.model_dump(mode="json"),
            role_arn=self.identity.arn,
            image_uri=image_uri,
            instance_type=self.instance_type,
            code_uri=self.upload(code, storage, "-code"),
            code_sha256=code.sha256,
            library_uri=storage.library(library),
            library_sha256=library.sha256,
            code=once(lineage.git_state, folder),
            input_uris=inputs,
            subnet_ids=list(where.subnet_ids),
            security_group_ids=list(where.security_group_ids),
            kms_key=key,
            network_isolation=where.isolated,
        )

    def cost(self) -> Cost:
        return prices.jobs(self.instance_type, self.spec.nodes) if self.instance_type else super().cost()

    def needs(self) -> Asked:
        storage = storage_of(self, self.storage)
        assert self.identity is not None
        return together(
            storage.statements(f"runs/{self.name}/", write=True),
            asking(
                submit_statements,
                *self.here,
                Known(self.scope, scope_of("", "", self.name, "")),
                Known(self.identity.arn, like("iam", f"role/{self.name}")),
            ),
        )


def job_statements(logs: str, scope: str) -> list[Statement]:
    """Log as a job of this scope, and tell how busy the machine is. logs: what the ARNs of log groups begin with."""
    group = f"{logs}:log-group:{LOG_GROUP}"
    return [
        allow(["logs:CreateLogStream", "logs:PutLogEvents"], [f"{group}:log-stream:*-{scope}/*"]),
        allow(["logs:DescribeLogStreams"], [f"{group}:*"]),
        # Metrics have no ARNs; the namespace says which they are.
        allow(["cloudwatch:PutMetricData"], ["*"], {"StringEquals": {"cloudwatch:namespace": LOG_GROUP}}),
    ]


def image_statements(partition: str, image_uri: str) -> list[Statement]:
    """Pull one image of ECR by its URI."""
    found = IMAGE.fullmatch(image_uri)
    assert found is not None, image_uri
    return pull_statements(f"arn:{partition}:ecr:{found['region']}:{found['account']}:repository/{found['repository']}")


def volume_statements(kms_key: str) -> list[Statement]:
    """Encrypt the disks of machines with a customer's key; nothing without one."""
    if not kms_key:
        return []
    return [
        allow(["kms:CreateGrant"], [kms_key], {"Bool": {"kms:GrantIsForAWSResource": "true"}}),
        allow(["kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext"], [kms_key]),
    ]


def submit_statements(partition: str, region: str, account: str, scope: str, role_arn: str) -> list[Statement]:
    """Submit, watch and stop the jobs of this scope, which run as this role."""
    job = f"arn:{partition}:sagemaker:{region}:{account}:training-job/*-{scope}"
    logs = f"arn:{partition}:logs:{region}:{account}:log-group:{LOG_GROUP}"
    actions = ["CreateTrainingJob", "DescribeTrainingJob", "StopTrainingJob", "AddTags"]
    return [
        allow([f"sagemaker:{action}" for action in actions], [job]),
        # A list has no ARN.
        allow(["sagemaker:ListTrainingJobs"], ["*"]),
        allow(["iam:PassRole"], [role_arn], pass_to(SAGEMAKER)),
        allow(["logs:FilterLogEvents"], [f"{logs}:*"]),
    ]


def pass_to(service: str) -> dict[str, Any]:
    """The condition under which a role may be handed on: to this service only."""
    return {"StringEquals": {"iam:PassedToService": service}}
