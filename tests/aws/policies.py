"""Every policy of a program, and what is wrong with it: cfn-lint's findings, and those of the rules of this house.

cfn-lint knows the actions, and the resources that each of them takes. What it does not ask is asked here: wildcards, and whether
whoever is let in is bound to something of ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cfnlint.api import ManualArgs, lint
from cfnlint.data import AdditionalSpecs
from cfnlint.helpers import load_resource

from .program import REGION, Recorded

__all__ = ["WIDE", "Policy", "bounds", "linted", "policies", "wildcards"]

# What may be allowed on "*", and why. Nothing else may.
WIDE = {
    "cloudwatch:GetMetricData": "metrics have no ARNs; they are counts",
    "cloudwatch:PutMetricData": "metrics have no ARNs; a condition names the namespace",
    "ec2:CreateNetworkInterface": "the interface has no ARN before it is made, and SageMaker asks for all of these as one",
    "ec2:CreateNetworkInterfacePermission": "as above",
    "ec2:DeleteNetworkInterface": "as above",
    "ec2:DeleteNetworkInterfacePermission": "as above",
    "ec2:DescribeDhcpOptions": "EC2 describes whole regions",
    "ec2:DescribeNetworkInterfaces": "EC2 describes whole regions",
    "ec2:DescribeSecurityGroups": "EC2 describes whole regions",
    "ec2:DescribeSubnets": "EC2 describes whole regions",
    "ec2:DescribeVpcs": "EC2 describes whole regions",
    "ecr:GetAuthorizationToken": "a login is to a registry, and opens nothing by itself",
    "ecs:DeregisterTaskDefinition": "ECS takes no resource for it",
    "ecs:DescribeTaskDefinition": "ECS takes no resource for it",
    "ecs:ListTaskDefinitions": "a list has no ARN; it shows names",
    "ecs:ListTasks": "a list has no ARN; a condition names the cluster",
    "elasticloadbalancing:DescribeLoadBalancerAttributes": "ELB describes whole regions",
    "sagemaker:ListEndpoints": "a list has no ARN; it shows names and states",
    "sagemaker:ListTrainingJobs": "a list has no ARN; it shows names and states",
}
# Resources whose names nobody can know before, and why; a condition has to say what they are of.
UNNAMED = {
    ":scalable-target/*": "Application Auto Scaling makes up the ids of its targets",
    ":loadbalancer/app/*": "ECS makes up the names of its load balancers",
}
# Policies of AWS itself that may be attached, and why.
THEIRS = {
    "service-role/AmazonECSInfrastructureRoleforExpressGatewayServices": "what ECS makes for a service is its own affair"
}
# Only in a key's own policy, where "*" is the key: without it nobody could change the key again.
OWNER = "kms:*"
# Services that do not say for whom they come; see `components.monitor.key_statements` and `components.express.balancing_trust`.
NAMELESS = {("kms", "events.amazonaws.com"), ("sts", "ecs.amazonaws.com")}
SOURCES = {"aws:sourcearn", "aws:sourceaccount"}
# Letters of a resource's own name beside its wildcards, from which on it is no other stack's.
OWN_LETTERS = 6
# The type of a resource -> of cfn-lint's: the type, the property, and what else that one needs.
TYPES: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "aws:iam/rolePolicy:RolePolicy": ("AWS::IAM::Policy", "PolicyDocument", {"PolicyName": "p", "Roles": ["r"]}),
    "aws:iam/policy:Policy": ("AWS::IAM::ManagedPolicy", "PolicyDocument", {}),
    "aws:iam/role:Role": ("AWS::IAM::Role", "AssumeRolePolicyDocument", {}),
    "aws:s3/bucketPolicy:BucketPolicy": ("AWS::S3::BucketPolicy", "PolicyDocument", {"Bucket": "b"}),
    "aws:sqs/queuePolicy:QueuePolicy": ("AWS::SQS::QueuePolicy", "PolicyDocument", {"Queues": ["q"]}),
    "aws:sns/topicPolicy:TopicPolicy": ("AWS::SNS::TopicPolicy", "PolicyDocument", {"Topics": ["t"]}),
    "aws:kms/key:Key": ("AWS::KMS::Key", "KeyPolicy", {}),
    "aws:ecr/repositoryPolicy:RepositoryPolicy": ("AWS::ECR::Repository", "RepositoryPolicyText", {}),
}  # fmt: skip
# Of policies; the others are about templates.
RULES = ("E3510", "E3512", "E3513", "E3530", "I3510", "W3037", "W2511")


class Statement(NamedTuple):
    effect: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    principals: Mapping[str, tuple[str, ...]]
    conditions: Mapping[str, Mapping[str, Any]]

    @property
    def keys(self) -> set[str]:
        """Of its conditions; AWS does not look at their case."""
        return {key.lower() for asked in self.conditions.values() for key in asked}


@dataclass(frozen=True)
class Policy:
    """A policy document, and the resource that carries it."""

    type: str
    name: str
    document: Mapping[str, Any]
    kind: str = field(default="")  # "identity", "trust" or "resource"

    @property
    def statements(self) -> Iterator[Statement]:
        for one in _many(self.document["Statement"]):
            who = one.get("Principal", {})
            principals = {"AWS": ("*",)} if who == "*" else {key: tuple(_many(value)) for key, value in who.items()}
            yield Statement(
                one["Effect"], tuple(_many(one.get("Action", ()))), tuple(_many(one.get("Resource", ()))), principals,
                one.get("Condition", {}),
            )  # fmt: skip

    def __str__(self) -> str:
        return f"{self.type.rpartition(':')[2]} {self.name}"


def policies(recorded: Recorded) -> list[Policy]:
    """Every policy that a program asked for. A policy where none is known fails: nothing is overlooked."""
    found = []
    for made in recorded.made:
        for key, value in made.inputs.items():
            if key == "policy" or key.lower().endswith("policy") and isinstance(value, str) and '"Statement"' in value:
                kind = (
                    "trust"
                    if key == "assumeRolePolicy"
                    else "identity"
                    if ":iam/" in made.type.replace("aws", "")
                    else ""
                )
                document = json.loads(value) if isinstance(value, str) else value
                if "Statement" not in document:  # a lifecycle policy of images, say
                    continue
                assert made.type in TYPES, f"{made} has a policy that nobody reads here"
                found.append(Policy(made.type, made.name, document, kind or "resource"))
        attached = str(made.inputs.get("policyArn", "")).rpartition(":policy/")[2]
        theirs = attached in THEIRS or any(
            one.type.endswith(":Policy") and attached.startswith(one.name) for one in recorded.made
        )
        if (made.type.endswith(":RolePolicyAttachment") and not theirs) or made.inputs.get("managedPolicyArns"):
            raise AssertionError(f"{made} attaches a policy of somebody else, which changes without us")
    return found


def linted(found: list[Policy]) -> list[str]:
    """What cfn-lint says of them."""
    resources = {}
    for number, one in enumerate(found):
        type_, key, more = TYPES[one.type]
        resources[f"P{number}"] = {"Type": type_, "Properties": {key: one.document, **more}}
    said = lint(
        json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}),
        config=ManualArgs(include_checks=["I"], regions=[REGION]),
    )
    return [f"{found[int(str(one.path[1])[1:])]}: {one.rule.id} {one.message}" for one in said if one.rule.id in RULES]


def wildcards(found: list[Policy]) -> list[str]:
    """Actions that are not named, and resources that are not ours alone or not of the kind that an action takes."""
    known, said = load_resource(AdditionalSpecs, "Policies.json"), []
    for policy in found:
        if {"NotAction", "NotResource", "NotPrincipal"} & {
            key for one in _many(policy.document["Statement"]) for key in one
        }:
            said.append(f"{policy}: says what is not meant")
        for one in policy.statements:
            if one.effect == "Deny":
                continue
            for action in one.actions:
                owner = action == OWNER and policy.type.endswith(":Key")
                if "*" in action and not owner:
                    said.append(f"{policy}: {action} is not one action")
                    continue
                if policy.kind != "identity":
                    continue
                service, _, name = action.partition(":")
                takes = known[service]["Actions"].get(name.lower(), {}).get("Resources")
                wide = "*" in one.resources
                if wide and action not in WIDE:
                    said.append(f"{policy}: {action} on everything")
                if not takes and not wide:
                    said.append(f"{policy}: {action} takes no resource, so it is not allowed at all")
            said += [
                f"{policy}: {resource} is not ours alone"
                for resource in one.resources
                if resource != "*" and not _own(resource) and not (one.conditions and resource.endswith(tuple(UNNAMED)))
            ]
    return said


def bounds(found: list[Policy]) -> list[str]:
    """Who is let in without being bound: to this account or something in it, or to the service that a role is passed to."""
    said = []
    for policy in found:
        for one in policy.statements:
            if one.effect == "Deny":
                continue
            if "iam:PassRole" in one.actions and (one.keys != {"iam:passedtoservice"} or len(one.actions) > 1):
                said.append(f"{policy}: a role may be passed to any service")
            if policy.kind == "identity":
                continue
            if "*" in one.principals.get("AWS", ()):
                said.append(f"{policy}: everybody is let in")
            if policy.kind == "trust" and (one.actions != ("sts:AssumeRole",) or set(one.principals) != {"Service"}):
                said.append(f"{policy}: somebody else than a service may take the role on")
            service = {action.partition(":")[0] for action in one.actions}
            for who in one.principals.get("Service", ()):
                if not one.keys & SOURCES and not {(name, who) for name in service} <= NAMELESS:
                    said.append(f"{policy}: {who} is let in for everybody")
    return said


def _own(arn: str) -> bool:
    """Is what an ARN names so much of a name that it is no other stack's?"""
    parts = arn.split(":", 5)
    if len(parts) < 6 or any("*" in part for part in parts[:5]):
        return False
    kind, _, name = parts[5].partition("/") if "/" in parts[5] else parts[5].partition(":")
    name = name if name and parts[2] != "s3" else parts[5]
    if "*" in kind and parts[2] != "s3":
        return False
    own = name.partition("/")[0] if parts[2] == "s3" else name
    return "*" not in own if parts[2] == "s3" else "*" not in own or len(own.replace("*", "")) >= OWN_LETTERS


def _many(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
