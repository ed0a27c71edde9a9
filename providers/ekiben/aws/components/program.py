"""What the components of AWS share: children with names and tags, roles and what they may do, bundles in buckets, the event bus.

Physical names are Pulumi's: the logical name and eight characters more. Component names have 24 characters at most, so with the
suffixes here none is longer than 63, which is what buckets, roles and functions take.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pulumi
import pulumi_aws as aws

from ekiben.components import Component, tags
from ekiben.cost import Cost
from ekiben.errors import SpecError
from ekiben.packing import Bundle
from ekiben.records import Platform

if TYPE_CHECKING:
    from ekiben.aws.components.images import Builder
    from ekiben.aws.components.storage import Storage

__all__ = [
    "LOG_DAYS",
    "Aws",
    "Statement",
    "allow",
    "current",
    "document",
    "exported",
    "facts",
    "trust",
]

Statement = Mapping[str, Any]

LOG_DAYS = 30
CONTENT = {"tar": "application/x-tar", "zip": "application/zip"}


@dataclass
class Program:
    """What one run of a Pulumi program has made so far: its storages and what builds its images by name, and its event bus."""

    monitor: Any
    storages: dict[str, Storage] = field(default_factory=dict)
    builders: dict[str, Builder] = field(default_factory=dict)
    bus: aws.cloudwatch.EventBus | None = None


_program = Program(monitor=None)


def current() -> Program:
    """The program that runs now: another engine connection is another program (tests run several in one process)."""
    global _program
    monitor = pulumi.runtime.settings.get_monitor()
    if _program.monitor is not monitor:
        _program = Program(monitor=monitor)
    return _program


class Aws(Component[Any]):
    """What is the same for every component. identity: the role of one that acts."""

    identity: aws.iam.Role | None = None

    def cost(self) -> Cost:
        return Cost(why="the price list of aws is not kept here: see https://calculator.aws")

    def needs(self) -> pulumi.Output[Sequence[Statement]]:
        """What whoever uses this component has to be allowed: exactly what its runtime class calls."""
        raise SpecError(f"The {self.kind} {self.name!r} cannot be granted to anybody: nothing uses it at run time.")

    def grant(self, to: Component[Any]) -> None:
        """Add to the role of `to` what it needs to use this component. Repeating is safe. Raises SpecError where there is none."""
        if not isinstance(to, Aws) or to.identity is None:
            raise SpecError(
                f"The {self.kind} {self.name!r} is on aws and cannot be granted to the {to.kind} {to.name!r}: it has no role "
                "there. Grant it to a function or a training of aws."
            )
        if self.name not in to._granted:
            to._granted.add(self.name)
            to.may(f"uses-{self.name}", self.needs())

    def may(self, what: str, statements: pulumi.Input[Sequence[Statement]]) -> aws.iam.RolePolicy:
        """An inline policy of the component's own role."""
        assert self.identity is not None, f"{self.name} has no role"
        made = self.policy(self.identity, what, statements)
        self.policies.append(made)
        return made

    def policy(
        self, role: aws.iam.Role, what: str, statements: pulumi.Input[Sequence[Statement]]
    ) -> aws.iam.RolePolicy:
        """An inline policy of a role of this component's."""
        text = pulumi.Output.from_input(statements).apply(document)
        return aws.iam.RolePolicy(f"{self.name}-{what}", role=role.name, policy=text, opts=self.opts())

    def role(self, service: str, suffix: str = "") -> aws.iam.Role:
        """A role that one service of AWS takes on, for this account's resources only."""
        return aws.iam.Role(
            self.name + suffix,
            assume_role_policy=self.account.apply(lambda account: trust(service, account)),
            tags=self.tags,
            opts=self.opts(),
        )

    def opts(self, *, retain: bool = False, depends_on: Sequence[pulumi.Resource] = ()) -> pulumi.ResourceOptions:
        """The options of a child. Providers, transforms and protection come from the component."""
        return pulumi.ResourceOptions(parent=self, retain_on_delete=retain or None, depends_on=list(depends_on) or None)

    def upload(self, bundle: Bundle, storage: Storage, suffix: str) -> pulumi.Output[str]:
        """The s3:// URI of an archive, under its own hash. A newer one does not delete it: models were made from it."""
        kind = bundle.path.suffix.removeprefix(".")
        key = f"code/{bundle.sha256}.{kind}"
        held = aws.s3.BucketObjectv2(
            self.name + suffix,
            bucket=storage.bucket.bucket,
            key=key,
            source=pulumi.FileAsset(str(bundle.path)),
            source_hash=bundle.sha256,
            content_type=CONTENT[kind],
            # The same bytes are one object, whosoever they are: it is tagged as the storage's.
            tags=storage.tags,
            opts=self.opts(retain=True, depends_on=storage.settings),
        )
        return pulumi.Output.concat("s3://", held.bucket, "/", held.key)

    @property
    def tags(self) -> dict[str, str]:
        return tags(self)

    @property
    def policies(self) -> list[aws.iam.RolePolicy]:
        """The inline policies of the component's own role: what acts waits for them."""
        return self.__dict__.setdefault("_policies", [])  # type: ignore[no-any-return]

    @property
    def _granted(self) -> set[str]:
        return self.__dict__.setdefault("_grants", set())  # type: ignore[no-any-return]

    @property
    def account(self) -> pulumi.Output[str]:
        told = aws.get_caller_identity_output(opts=pulumi.InvokeOutputOptions(parent=self))
        found: pulumi.Output[str] = told.account_id
        return found

    @property
    def region(self) -> pulumi.Output[str]:
        told = aws.get_region_output(opts=pulumi.InvokeOutputOptions(parent=self))
        found: pulumi.Output[str] = told.region
        return found

    @property
    def partition(self) -> pulumi.Output[str]:
        """ "aws", or that of China or of a government: what an ARN begins with."""
        told = aws.get_partition_output(opts=pulumi.InvokeOutputOptions(parent=self))
        found: pulumi.Output[str] = told.partition
        return found

    @property
    def bus(self) -> aws.cloudwatch.EventBus:
        """The program's own event bus, made on first use: other stacks of the account hear nothing of it."""
        program = current()
        if program.bus is None:
            whose = {**self.tags, "ekiben:component": ""}
            opts = pulumi.ResourceOptions(provider=self.get_provider("aws:cloudwatch/eventBus:EventBus"))
            program.bus = aws.cloudwatch.EventBus(
                f"{pulumi.get_project()}-{pulumi.get_stack()}"[:200], tags=whose, opts=opts
            )
        return program.bus


def allow(actions: Sequence[str], resources: Sequence[str], conditions: Mapping[str, Any] | None = None) -> Statement:
    """A statement that allows these actions on these resources."""
    made = {"Effect": "Allow", "Action": list(actions), "Resource": list(resources)}
    return {**made, "Condition": dict(conditions)} if conditions else made


def document(statements: Sequence[Statement]) -> str:
    """A policy as JSON, the same text for the same statements."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)}, sort_keys=True)


def trust(service: str, account: str) -> str:
    """The policy of a role that `service` may take on, on behalf of what is in `account`."""
    statement = {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"Service": service},
        "Condition": {"StringEquals": {"aws:SourceAccount": account}},
    }
    return document([statement])


def facts(**values: Any) -> pulumi.Output[Mapping[str, Any]]:
    """Facts of a part, from outputs and plain values."""
    return pulumi.Output.all(**values).apply(dict)


def exported(record: pulumi.Output[Platform]) -> None:
    """Nothing more: functions have the record in their bundle, and everybody else has the stack's output."""
