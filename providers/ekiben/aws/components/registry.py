"""Registry: records in its storage, decisions on the program's event bus, and a mirror in SageMaker's model registry."""

from __future__ import annotations

import hashlib
import json

import pulumi

from ekiben import components
from ekiben.aws import SUPPORT, prices
from ekiben.aws.components.policies import Asked, Known, Statement, allow, asking, like, together
from ekiben.aws.components.program import Aws, bus_name
from ekiben.aws.components.resources import Packages
from ekiben.aws.components.storage import storage_of
from ekiben.aws.events import SOURCE
from ekiben.cost import Cost
from ekiben.programs import facts

__all__ = ["Registry", "groups_prefix", "mirror_statements", "publish_statements"]


class Registry(Aws, components.Registry):
    """groups: what the names of its model package groups begin with; empty without a mirror."""

    support = SUPPORT
    groups: pulumi.Output[str]

    def create(self) -> None:
        storage = storage_of(self, self.storage)
        project, stack, name = pulumi.get_project(), pulumi.get_stack(), self.name
        shown = self.spec.mirror != "off"
        self.groups = storage.bucket.bucket.apply(
            lambda bucket: groups_prefix(project, stack, bucket, name) if shown else ""
        )
        if shown:
            made = {"region": self.region, "groups": self.groups}
            Packages(f"{self.name}-packages", made, self.opts())
        uri = pulumi.Output.concat(storage.uri, "/registry/", self.name)
        self.ref = uri
        self.facts = facts(
            region=self.region,
            uri=uri,
            bus=self.bus.name,
            require_approval=self.spec.require_approval,
            model_groups=self.groups,
        )

    def cost(self) -> Cost:
        return prices.registry()

    def needs(self) -> Asked:
        storage = storage_of(self, self.storage)
        shown = groups_prefix("", "", "", self.name) if self.spec.mirror != "off" else ""
        return together(
            storage.statements(f"registry/{self.name}/", write=True),
            asking(publish_statements, Known(self.bus.arn, like("events", f"event-bus/{bus_name()}"))),
            asking(
                lambda groups, *here: mirror_statements(groups, f"arn:{here[0]}:sagemaker:{here[1]}:{here[2]}"),
                Known(self.groups, shown),
                *self.here,
            ),
        )


def groups_prefix(project: str, stack: str, bucket: str, name: str) -> str:
    """What the model package groups of a registry begin with: no other stack's do, nor those of the same one made anew.

    33 characters at most, which with a model's 24 are within SageMaker's 63.
    """
    whose = json.dumps([project, stack, bucket, name])
    return f"{name}-{hashlib.sha256(whose.encode()).hexdigest()[:8]}"


def publish_statements(bus_arn: str) -> list[Statement]:
    """Put Ekiben's events, and no service's, on a bus."""
    return [allow(["events:PutEvents"], [bus_arn], {"StringEquals": {"events:source": SOURCE}})]


def mirror_statements(groups: str, arns: str) -> list[Statement]:
    """Show versions as model packages of groups that begin so, and read what was decided. arns: what their ARNs begin with."""
    if not groups:
        return []
    group, package = f"{arns}:model-package-group/{groups}-*", f"{arns}:model-package/{groups}-*"
    return [
        allow(["sagemaker:CreateModelPackageGroup", "sagemaker:AddTags"], [group]),
        allow(
            [
                f"sagemaker:{one}"
                for one in ("CreateModelPackage", "DescribeModelPackage", "ListModelPackages", "UpdateModelPackage")
            ],
            [group, package],
        ),
    ]
