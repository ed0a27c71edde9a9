"""Roles, as AWS's services take them on, and what they may do: judged where IAM is asked, and let be where it is not."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from moto.iam.access_control import IAMPolicy
from moto.iam.models import iam_backends
from moto.sts.models import sts_backends

from ekiben.emulators.aws.call import Refused
from ekiben.emulators.aws.policies import allowed, service_may

__all__ = ["ask", "credentials", "may", "may_log", "statements", "trusted", "trusts"]

logger = logging.getLogger("ekiben.emulators.aws")

_asked = threading.Event()


def ask() -> None:
    """From here on, IAM is asked."""
    _asked.set()


def credentials(account: str, region: str, arn: str, service: str) -> dict[str, str]:
    """Of the role `arn`, as environment variables, for twelve hours. service: who assumes it, such as "sagemaker".

    Raises Refused where there is no such role, or none that trusts the service.
    """
    if not trusts(account, arn, f"{service}.amazonaws.com"):
        told = f"Could not assume role {arn}. Please ensure that the role exists and allows principal '{service}.amazonaws.com'"
        raise Refused("ValidationException", f"{told} to assume the role.")
    assumed = sts_backends[account]["aws"].assume_role(region, service, arn, "", 43200, "")
    return {
        "AWS_ACCESS_KEY_ID": assumed.access_key_id,
        "AWS_SECRET_ACCESS_KEY": assumed.secret_access_key,
        "AWS_SESSION_TOKEN": assumed.session_token,
    }


def trusts(account: str, arn: str, service: str) -> bool:
    """Does a role's own policy let a service take it on?"""
    role = next((one for one in iam_backends[account]["aws"].roles.values() if one.arn == arn), None)
    return role is not None and service_may(
        json.loads(role.assume_role_policy_document), service, "sts:AssumeRole", "*", {"aws:SourceAccount": account}
    )


def trusted(arn: str, service: str) -> None:
    """Raises Refused where IAM is asked and the role does not let the service take it on."""
    if _asked.is_set() and not trusts(arn.split(":")[4], arn, service):
        raise Refused("ValidationException", f"Could not assume role {arn}: it does not let {service} assume it")


def may(arn: str, action: str, resource: str) -> bool:
    """May a service do this for a role? What it may not do is left undone without a word, as on AWS, but for the emulator's log."""
    if not _asked.is_set() or allowed(statements(arn.split(":")[4], arn.rpartition("/")[2]), action, resource, {}):
        return True
    logger.warning("%s may not %s on %s: it is left undone", arn, action, resource)
    return False


def may_log(arn: str, region: str, group: str, stream: str) -> bool:
    """May a role's container write to this stream?"""
    where = f"arn:aws:logs:{region}:{arn.split(':')[4]}:log-group:{group}:log-stream:{stream}"
    return all(may(arn, f"logs:{action}", where) for action in ("CreateLogStream", "PutLogEvents"))


def statements(account: str, role: str) -> Iterator[Mapping[str, Any]]:
    """Those of a role's inline and attached policies."""
    backend = iam_backends[account]["aws"]
    found: list[Any] = [backend.get_role_policy(role, name)[1] for name in backend.list_role_policies(role)]
    found += backend.list_attached_role_policies(role)[0]
    for policy in found:
        there = IAMPolicy(policy)._policy_json["Statement"]
        yield from there if isinstance(there, list) else [there]
