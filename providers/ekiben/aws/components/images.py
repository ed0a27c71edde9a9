"""Environment images: a repository in ECR and a project of CodeBuild for each registry, made when an endpoint asks for an image.

They belong to the registry, because models of one registry share their environments: endpoints with the same lock have one image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_aws as aws

from ekiben import components
from ekiben.aws.components.policies import Known, Statement, allow, asking, document, like, together
from ekiben.aws.components.program import LOG_DAYS, current
from ekiben.aws.components.registry import Registry
from ekiben.aws.components.resources import Image
from ekiben.aws.components.storage import storage_of
from ekiben.components import Component
from ekiben.errors import SpecError
from ekiben.packing import Bundle

__all__ = ["Builder", "build_statements", "builder_of", "functions_pull", "pull_statements"]

CODEBUILD = "codebuild.amazonaws.com"
# Docker runs in it. https://docs.aws.amazon.com/codebuild/latest/userguide/build-env-ref-available.html
BUILDS_ON, SIZE = "aws/codebuild/amazonlinux-x86_64-standard:5.0", "BUILD_GENERAL1_SMALL"
BUILD_TIMEOUT_MINUTES = 60
TAG_CHARS = 12
PUSH = (
    "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload", "ecr:GetDownloadUrlForLayer",
    "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
)  # fmt: skip


@dataclass
class Builder:
    """What builds the images of a registry; `images` are those that the program has asked for, by the digests of their contexts."""

    owner: Registry
    repository: aws.ecr.Repository
    project: aws.codebuild.Project
    ready: list[pulumi.Resource]
    images: dict[str, Image] = field(default_factory=dict)

    def image(self, context: Bundle) -> Image:
        """The image of this context."""
        if context.sha256 not in self.images:
            owner, short = self.owner, context.sha256[:TAG_CHARS]
            storage = storage_of(owner, owner.storage)
            uri = owner.upload(context, storage, f"-context-{short}")
            self.images[context.sha256] = Image(
                f"{owner.name}-image-{short}",
                {
                    "region": owner.region,
                    "project": self.project.name,
                    "repository_url": self.repository.repository_url,
                    "tag": context.sha256,
                    "source": uri.apply(lambda uri: uri.removeprefix("s3://")),
                },
                opts=owner.opts(depends_on=self.ready),
            )
        return self.images[context.sha256]

    @property
    def arn(self) -> Known:
        """Of its repository."""
        return Known(self.repository.arn, like("ecr", f"repository/{self.owner.name}-images"))


def builder_of(component: Component[Any], registry: components.Registry) -> Builder:
    """What builds the images of `registry`. Raises SpecError, naming both, when that is not one of AWS."""
    if not isinstance(registry, Registry):
        raise SpecError(
            f"The {component.kind} {component.name!r} is on aws and its registry {registry.name!r} is on {registry.provider}: "
            "its images would be nowhere. Give it a registry of aws."
        )
    builders = current().builders
    if registry.name not in builders:
        builders[registry.name] = _made(registry)
    return builders[registry.name]


def _made(registry: Registry) -> Builder:
    storage = storage_of(registry, registry.storage)
    key = storage.spec.kms_key
    repository = aws.ecr.Repository(
        f"{registry.name}-images",
        force_delete=True,
        image_tag_mutability="IMMUTABLE",
        image_scanning_configuration={"scan_on_push": True},
        encryption_configurations=[
            {"encryption_type": "KMS", "kms_key": key} if key else {"encryption_type": "AES256"}
        ],
        tags=registry.tags,
        opts=registry.opts(),
    )
    pulled = aws.ecr.RepositoryPolicy(
        f"{registry.name}-images",
        repository=repository.name,
        policy=pulumi.Output.all(registry.partition, registry.region, registry.account).apply(
            lambda told: document([functions_pull(*told)])
        ),
        opts=registry.opts(),
    )
    log = aws.cloudwatch.LogGroup(
        f"{registry.name}-builds", retention_in_days=LOG_DAYS, tags=registry.tags, opts=registry.opts()
    )
    role = registry.role(CODEBUILD, "-builds")
    pushes = registry.policy(
        role,
        "builds",
        together(
            storage.statements("code/", write=False),
            asking(
                build_statements,
                storage.arn,
                Known(repository.arn, like("ecr", f"repository/{registry.name}-images")),
                Known(log.arn, like("logs", f"log-group:{registry.name}-builds")),
            ),
        ),
    )
    project = aws.codebuild.Project(
        f"{registry.name}-builds",
        description=f"Builds the environment images of {registry.name}.",
        service_role=role.arn,
        # Each build is told which archive of this folder it is of; buildspec.yml is in it.
        source={"type": "S3", "location": pulumi.Output.concat(storage.bucket.bucket, "/code/")},
        artifacts={"type": "NO_ARTIFACTS"},
        environment={
            "type": "LINUX_CONTAINER",
            "image": BUILDS_ON,
            "compute_type": SIZE,
            "privileged_mode": True,
        },
        logs_config={"cloudwatch_logs": {"group_name": log.name}},
        build_timeout=BUILD_TIMEOUT_MINUTES,
        tags=registry.tags,
        opts=registry.opts(depends_on=[pushes]),
    )
    return Builder(registry, repository, project, [pushes, pulled, project, *storage.settings])


def build_statements(bucket_arn: str, repository_arn: str, log_arn: str) -> list[Statement]:
    """Take a context by its version, push into one repository, and log into one group. A login is no resource."""
    return [
        allow(["s3:GetObjectVersion"], [f"{bucket_arn}/code/*"]),
        allow(PUSH, [repository_arn]),
        allow(["ecr:GetAuthorizationToken"], ["*"]),
        allow(["logs:CreateLogStream", "logs:PutLogEvents"], [f"{log_arn}:*"]),
    ]


def pull_statements(repository_arn: str) -> list[Statement]:
    """Pull from one repository. A login is no resource."""
    return [
        allow(["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"], [repository_arn]),
        allow(["ecr:GetAuthorizationToken"], ["*"]),
    ]


def functions_pull(partition: str, region: str, account: str) -> Statement:
    """Of a repository's policy: Lambda pulls for this account's functions."""
    functions = f"arn:{partition}:lambda:{region}:{account}:function:*"
    return {
        "Sid": "Functions",
        "Effect": "Allow",
        "Principal": {"Service": "lambda.amazonaws.com"},
        "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
        "Condition": {"StringLike": {"aws:sourceArn": functions}},
    }
