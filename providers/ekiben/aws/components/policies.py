"""What roles may do: statements, documents, and how the statements of a role are put into as many policies as it takes.

IAM counts the characters of a policy without white space: 10,240 for all that is inline in a role, 6,144 for a managed policy, of
which a role has ten. https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi

from ekiben.errors import Unsupported
from ekiben.programs import Sealed

__all__ = [
    "ATTACHED",
    "INLINE_CHARS",
    "MANAGED_CHARS",
    "Asked",
    "Known",
    "Statement",
    "allow",
    "asking",
    "document",
    "layout",
    "like",
    "merged",
    "size",
    "tls_only",
    "together",
    "trust",
]

Statement = Mapping[str, Any]

INLINE_CHARS = 10_240
MANAGED_CHARS = 6_144
ATTACHED = 10
# As long as they can be, in ARNs that nobody knows yet: a partition, a region, an account, and what Pulumi adds to a name.
PARTITION, REGION, ACCOUNT, TAIL = "aws-us-gov", "ap-southeast-12", "123456789012", "-0123456"


@dataclass(frozen=True)
class Known:
    """A value that is known once something is made, and one like it that is at least as long."""

    value: pulumi.Input[Any]
    like: Any


@dataclass(frozen=True)
class Asked:
    """The statements of one thing that a role is for, once all is made; and the same of values at least as long, known before."""

    made: pulumi.Output[Sealed]
    like: Sequence[Statement]


def asking(make: Callable[..., Sequence[Statement]], *known: Known) -> Asked:
    """What `make` makes of these values."""
    made = pulumi.Output.all(*(one.value for one in known)).apply(lambda told: Sealed(list(make(*told))))
    return Asked(made, make(*(one.like for one in known)))


def together(*asked: Asked) -> Asked:
    made = pulumi.Output.all(*(one.made for one in asked)).apply(
        lambda told: Sealed([one for part in told for one in part.value])
    )
    return Asked(made, [one for part in asked for one in part.like])


def like(service: str, what: str) -> str:
    """An ARN as long as that of a resource which Pulumi names: `what` is its type and its logical name."""
    return f"arn:{PARTITION}:{service}:{REGION}:{ACCOUNT}:{what}{TAIL}"


def layout(role: str, units: Sequence[Sequence[Statement]]) -> list[list[int]]:
    """Which units go into the role's inline policy, and which into each of its managed ones: their numbers.

    In their order, each into the first that has room, so that another unit at the end moves none. Raises Unsupported where
    they need more than a role can have.
    """
    found: list[list[int]] = [[]]
    for number, unit in enumerate(units):
        if (chars := size(unit)) > MANAGED_CHARS:
            raise Unsupported(
                f"The role of {role!r}: one of the parts that it may use takes {chars:,} characters of a policy, and IAM allows "
                f"{MANAGED_CHARS:,}. Give the part shorter prefixes, or fewer."
            )
        for index, held in enumerate(found):
            room = MANAGED_CHARS if index else INLINE_CHARS
            if size([one for each in (*held, number) for one in units[each]]) <= room:
                held.append(number)
                break
        else:
            found.append([number])
    if len(found) > ATTACHED + 1:
        whole = sum(size(unit) for unit in units)
        raise Unsupported(
            f"The role of {role!r}: what it may use takes {whole:,} characters of policies, and IAM allows "
            f"{INLINE_CHARS:,} in the role and {ATTACHED} policies of {MANAGED_CHARS:,} beside it. Use less in one function: "
            "divide it into several."
        )
    return found


def size(statements: Iterable[Statement]) -> int:
    """The characters that IAM counts of a policy with these statements."""
    return len("".join(document(statements).split()))


def merged(statements: Iterable[Statement]) -> list[Statement]:
    """The same permissions in fewer statements: those that differ in their resources alone are one, then those in actions alone."""
    return _joined(_joined(statements, "Resource"), "Action")


def document(statements: Iterable[Statement]) -> str:
    """A policy as JSON, the same text for the same statements, merged."""
    whole = {"Version": "2012-10-17", "Statement": merged(statements)}
    return json.dumps(whole, sort_keys=True, separators=(",", ":"))


def allow(actions: Sequence[str], resources: Sequence[str], conditions: Mapping[str, Any] | None = None) -> Statement:
    """A statement that allows these actions on these resources."""
    made = {"Effect": "Allow", "Action": list(actions), "Resource": list(resources)}
    return {**made, "Condition": dict(conditions)} if conditions else made


def tls_only(action: str, resource: str | list[str]) -> Statement:
    """Of a resource's own policy: refuse whoever does not encrypt on the way."""
    return {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": action,
        "Resource": resource,
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def trust(service: str, account: str) -> str:
    """The policy of a role that `service` may take on, on behalf of what is in `account`."""
    statement = {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"Service": service},
        "Condition": {"StringEquals": {"aws:SourceAccount": account}},
    }
    return document([statement])


def _joined(statements: Iterable[Statement], key: str) -> list[Statement]:
    """Statements that are the same but for the list `key`, as one with all of both lists."""
    found: dict[str, dict[str, Any]] = {}
    for one in statements:
        rest = {name: sorted(value) if isinstance(value, list) else value for name, value in one.items() if name != key}
        same = json.dumps(rest, sort_keys=True) if isinstance(one.get(key), list) else json.dumps(one, sort_keys=True)
        if same not in found:
            found[same] = dict(one)
        elif isinstance(one.get(key), list):
            found[same][key] = list(dict.fromkeys((*found[same][key], *one[key])))
    return list(found.values())
