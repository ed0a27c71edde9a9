"""What the components of AWS share: children with names and tags, roles and what they may do, bundles in buckets, the event bus.

Physical names are Pulumi's: the logical name and eight characters more. Component names have 24 characters at most, so with the
suffixes here none is longer than 63, which is what buckets, roles and functions take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pulumi
import pulumi_aws as aws

from ekiben.aws.components import policies
from ekiben.aws.components.policies import Asked, Known, document, trust
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
    "bus_name",
    "current",
    "exported",
]

LOG_DAYS = 30
CONTENT = {"tar": "application/x-tar", "zip": "application/zip"}


@dataclass
class Program:
    """What one run of a Pulumi program has made so far: its storages and what builds its images by name, its event bus; and what
    its providers have told of where they are.
    """

    monitor: Any
    storages: dict[str, Storage] = field(default_factory=dict)
    builders: dict[str, Builder] = field(default_factory=dict)
    bus: aws.cloudwatch.EventBus | None = None
    told: dict[tuple[str, pulumi.ProviderResource | None], pulumi.Output[str]] = field(default_factory=dict)


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
        return Cost(why="it was refused, and nothing will be made")

    def needs(self) -> Asked:
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
            to.may(self.needs())

    def may(self, *asked: Asked) -> None:
        """Allow the component's own role this. Raises Unsupported where it is more than a role can be allowed."""
        units = self.__dict__.setdefault("_units", [])
        units += asked
        if (
            self.policies
        ):  # what the role has stays where it is: the inline policy is one, so another one is a managed policy
            policies.layout(self.name, [one.like for one in units])
            for one in asked:
                self._managed([one])

    def acts(self) -> None:
        """Make the policies of the component's own role, of all that it may so far. Raises Unsupported, see `policies.layout`."""
        assert self.identity is not None, f"{self.name} has no role"
        units: list[Asked] = self.__dict__.get("_units", [])
        inline, *managed = policies.layout(self.name, [one.like for one in units])
        self.policies.append(self.policy(self.identity, "may", policies.together(*(units[one] for one in inline))))
        for numbers in managed:
            self._managed([units[one] for one in numbers])

    def policy(self, role: aws.iam.Role, what: str, asked: Asked) -> aws.iam.RolePolicy:
        """An inline policy of a role of this component's."""
        text = asked.made.apply(lambda told: document(told.value))
        return aws.iam.RolePolicy(f"{self.name}-{what}", role=role.name, policy=text, opts=self.opts())

    def _managed(self, asked: Sequence[Asked]) -> None:
        """A policy beside the role, for what the inline one has no room for."""
        assert self.identity is not None
        name = f"{self.name}-may-{len(self.policies) + 1}"
        text = policies.together(*asked).made.apply(lambda told: document(told.value))
        made = aws.iam.Policy(name, policy=text, tags=self.tags, opts=self.opts())
        self.policies.append(
            aws.iam.RolePolicyAttachment(name, role=self.identity.name, policy_arn=made.arn, opts=self.opts())
        )

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
    def policies(self) -> list[pulumi.Resource]:
        """What allows the component's own role what it may: what acts waits for it."""
        return self.__dict__.setdefault("_policies", [])  # type: ignore[no-any-return]

    @property
    def _granted(self) -> set[str]:
        return self.__dict__.setdefault("_grants", set())  # type: ignore[no-any-return]

    @property
    def account(self) -> pulumi.Output[str]:
        return self._found(aws.get_caller_identity_output, "account_id")

    @property
    def region(self) -> pulumi.Output[str]:
        return self._found(aws.get_region_output, "region")

    @property
    def partition(self) -> pulumi.Output[str]:
        """ "aws", or that of China or of a government: what an ARN begins with."""
        return self._found(aws.get_partition_output, "partition")

    @property
    def here(self) -> tuple[Known, Known, Known]:
        """The partition, the region and the account."""
        return (
            Known(self.partition, policies.PARTITION),
            Known(self.region, policies.REGION),
            Known(self.account, policies.ACCOUNT),
        )

    def _found(self, ask: Callable[..., Any], what: str) -> pulumi.Output[str]:
        """What AWS's provider tells of where the component is. Of each provider it is asked once in a program."""
        told, key = current().told, (what, self.get_provider("aws:index/getRegion:getRegion"))
        if key not in told:
            told[key] = getattr(ask(opts=pulumi.InvokeOutputOptions(parent=self)), what)
        return told[key]

    @property
    def bus(self) -> aws.cloudwatch.EventBus:
        """The program's own event bus, made on first use: other stacks of the account hear nothing of it."""
        program = current()
        if program.bus is None:
            whose = {**self.tags, "ekiben:component": ""}
            opts = pulumi.ResourceOptions(provider=self.get_provider("aws:cloudwatch/eventBus:EventBus"))
            program.bus = aws.cloudwatch.EventBus(bus_name(), tags=whose, opts=opts)
        return program.bus


def bus_name() -> str:
    """What the program's event bus is called, but for what Pulumi adds."""
    return f"{pulumi.get_project()}-{pulumi.get_stack()}"[:200]


def exported(record: pulumi.Output[Platform]) -> None:
    """Nothing more: functions have the record in their bundle, and everybody else has the stack's output."""
